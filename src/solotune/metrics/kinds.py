"""What a metric is: a pure function, or options that make one; or a choice among answers by their likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field, field_validator

from solotune.config.schema import Section

Score = Callable[[str, str], float | None]
"""(prediction, reference) -> 0..1, higher is better; None: the metric doesn't apply to the row."""


class Options(Section):
    """What may stand behind the name of any metric."""

    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.:-]{0,59}$")] | None = None
    """What the result is called; the metric's name, if not given."""

    @field_validator("label")
    @classmethod
    def label_is_free(cls, value: str | None) -> str | None:
        if value in ("loss", "perplexity"):
            raise ValueError(f"{value} is what every report has; call it otherwise")
        return value


class Scorer(NamedTuple):
    """A function that options made, and these options in words."""

    score: Score
    words: str


class AnswerOptions(Options, ABC):
    """The options of a metric of generated answers; its docstring is the metric's."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """Reads what the options name.

        Raises:
            BadOption: a file can't be used.
        """


class BadOption(Exception):
    """An option that reads well, but names something that can't be used."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(text)
        self.option = option
