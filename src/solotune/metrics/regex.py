"""Whether the prediction fits a pattern.

Range: 0 or 1, higher is better; applies to every row, and the reference does not matter.
Normalisation: none. `match: search` finds the pattern anywhere (`^` and `$` tie it to the ends, `$` also before a
last line break), `match: full` wants the whole text; `(?i)` at the pattern's beginning ignores case, `(?s)` lets a
dot be a line break.
Reference: `search` and `fullmatch` of the package regex, whose patterns are those of Python's `re`, and more. Some
patterns, such as `(x+x+)+y`, take longer than the universe on some texts: 5 seconds on one answer stop the stage,
with the row, since a score that hangs on the machine's speed would be none.
"""

from __future__ import annotations

from typing import Literal

import regex as engine
from pydantic import field_validator

from solotune.config.schema import Text
from solotune.errors import SolotuneError
from solotune.metrics.kinds import AnswerOptions, Scorer

SECONDS = 5.0


class Regex(AnswerOptions):
    pattern: Text
    """The pattern, as Python's `re` has them."""
    match: Literal["search", "full"] = "search"
    """Whether it may stand anywhere in the answer, or must be all of it."""

    @field_validator("pattern")
    @classmethod
    def pattern_compiles(cls, value: str) -> str:
        try:
            engine.compile(value)
        except (engine.error, OverflowError, RecursionError) as error:
            raise ValueError(f"not a pattern: {error}") from None
        return value

    def scorer(self) -> Scorer:
        pattern = engine.compile(self.pattern)
        fits = pattern.fullmatch if self.match == "full" else pattern.search

        def regex(prediction: str, reference: str) -> float:
            try:
                return float(fits(prediction, timeout=SECONDS) is not None)
            except TimeoutError:
                raise SolotuneError(
                    f"the pattern {self.pattern!r} takes longer than {SECONDS:.0f} s on this answer",
                    "Write it without a repetition within a repetition, such as (x+)+",
                ) from None

        return Scorer(regex, f"{self.match} {self.pattern}")
