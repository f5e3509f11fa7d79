"""Whether the model finds the reference likelier than every other choice: accuracy by likelihood, nothing generated.

Range: 0 or 1, higher is better; applies to every row that it is asked of.
A choice is scored as the assistant's whole answer: its tokens and the one that ends the turn. The likeliest wins; of
equals, the first. Whitespace at the ends does not tell choices apart.
Normalisation: `sum` compares the log-likelihoods themselves, `token` their mean over the tokens, `character` their
mean over the characters.
Reference: `multiple_choice` of lm-evaluation-harness 0.4.13 (`process_results` in lm_eval/api/task.py),
where `sum` is `acc` and `character` is `acc_norm`; there the token that ends the turn is not scored. `token` is the
normalisation of that name in OLMES (Gu et al. 2024, arXiv:2406.08446).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from solotune.config.schema import Text
from solotune.errors import DataError
from solotune.metrics.kinds import Options

MOST_CHOICES = 64


class ChoiceAccuracy(Options):
    choices: Annotated[tuple[Text, ...], Field(strict=False, min_length=2, max_length=MOST_CHOICES)] | None = None
    """The answers to choose from; if not given, the distinct references of the held-out rows."""
    normalise: Literal["sum", "token", "character"] = "sum"
    """What is compared: the choices' log-likelihoods, or their mean over tokens or characters."""

    @field_validator("choices")
    @classmethod
    def choices_differ(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for i, choice in enumerate(value or ()):
            if not choice.strip():
                raise ValueError("a choice is blank")
            if any(_same(choice, other) for other in (value or ())[:i]):
                raise ValueError(f"{choice!r} stands there twice")
        return value

    def words(self) -> str:
        named = "the references" if self.choices is None else ", ".join(map(repr, self.choices))
        return f"choices: {named}; normalise: {self.normalise}"

    def choices_of(self, label: str, rows: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """The choices, given the rows that are to be measured.

        Args:
            label: what the result is called.
            rows: (id, reference) of each.

        Raises:
            DataError: a reference is no choice, or the references are too many to choose from.
        """
        if self.choices is None:
            return _distinct(label, [reference for _, reference in rows])
        for row_id, reference in rows:
            if not any(_same(reference, choice) for choice in self.choices):
                raise DataError(
                    f"{label}: the answer of row {row_id!r} is none of the choices: {_short(reference)}",
                    "Add it to the metric's `choices`, or ask it in evaluation.metrics_by_tag, of the rows with a tag",
                )
        return self.choices

    def choose(self, choices: Sequence[str], nll: Sequence[float], tokens: Sequence[int]) -> int:
        """The index of the likeliest choice.

        Args:
            choices: as `choices_of` gave them.
            nll: of each choice, summed over its tokens (with the one that ends the turn), nats.
            tokens: how many these are.
        """
        sizes = {"sum": [1] * len(choices), "token": tokens, "character": [max(1, len(choice)) for choice in choices]}
        costs = [n / size for n, size in zip(nll, sizes[self.normalise], strict=True)]
        return costs.index(min(costs))


def is_right(choice: str, reference: str) -> float:
    return float(_same(choice, reference))


def _distinct(label: str, references: Sequence[str]) -> tuple[str, ...]:
    """References that differ, sorted, so that the order of rows decides nothing."""
    found = list({reference.strip(): reference for reference in sorted(references, reverse=True)}.values())
    if len(found) > MOST_CHOICES:
        raise DataError(
            f"{label}: the held-out rows have {len(found):,} different answers, and each would be scored on each row; "
            f"{MOST_CHOICES} are the most",
            "Name the metric's `choices`, or ask it in evaluation.metrics_by_tag, of the rows with a tag",
        )
    if len(found) == 1:
        raise DataError(
            f"{label}: all held-out rows have the same answer, {_short(found[0])}: there is nothing to choose from",
            "Name the metric's `choices`",
        )
    return tuple(reversed(found))


def _same(one: str, other: str) -> bool:
    return one.strip() == other.strip()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")
