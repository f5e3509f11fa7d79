"""One model on the held-out rows: its likelihood of every token, its answers, its choices, and what metrics say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from solotune.console import Progress, counted, safe
from solotune.errors import ModelError
from solotune.harness.held_out import HeldOut
from solotune.harness.thoughts import parted
from solotune.metrics import AnswerMetric, ChoiceMetric
from solotune.modeling.likelihood import RowScore
from solotune.modeling.subject import Subject

Metric = AnswerMetric | ChoiceMetric
_ROWS_AT_ONCE = 64
"""Whose choices are tokens in memory at a time."""


@dataclass(frozen=True)
class Measured:
    """What one model did on rows, each list in their order."""

    scores: list[RowScore]
    answers: list[str]
    """Empty where no metric asked for one."""
    choices: list[str | None]
    """The likeliest one by the first metric that gave the row choices."""
    values: dict[str, list[float | None]]
    """Label of a metric -> a value for each row; None where it doesn't apply."""
    generated: list[Generated | None]
    """How each answer began and ended; None where there is none."""
    rows: Sequence[int]
    """Numbers of the held-out rows that these are, ascending."""


@dataclass(frozen=True)
class Generated:
    """What of an answer isn't in its text."""

    is_cut: bool
    """It wasn't finished after `evaluation.max_new_tokens`."""
    thoughts: str
    """A whole block of thoughts before it."""
    is_unfinished: bool
    """It begins with a block of thoughts that doesn't end."""


def measure(
    name: str, subject: Subject, held_out: HeldOut, metrics: Sequence[Metric], rows: Sequence[int] | None = None
) -> Measured:
    """Scores every row; each answer is generated once, whatever metrics look at it.

    Args:
        name: of the model, for people.
        subject: the model.
        held_out: the rows.
        metrics: in the order in which reports show them.
        rows: numbers of some of them, ascending; None: all. The choices of a metric are those of all rows in any case.

    Raises:
        ModelError: the model finds a row infinitely unlikely, or its likelihood is no number.
        DataError: a metric's choices don't fit the rows.
        SolotuneError: a pattern or function of the user's can't score a row.
    """
    name = safe(name, 60)
    choices_given = {m.label: choices_of(m, held_out) for m in metrics if isinstance(m, ChoiceMetric)}
    rows = range(len(held_out)) if rows is None else rows
    held_out = held_out.some(rows)
    with Progress(f"{name}: scoring", len(held_out), "rows") as bar:
        scores = subject.score(held_out.encoded, bar.advance)
    _refuse_not_finite(name, held_out, range(len(held_out)), scores)
    by_answer = [metric for metric in metrics if isinstance(metric, AnswerMetric)]
    answers, generated = _answers(name, subject, held_out, by_answer)
    choices = {
        m.label: _choices(name, subject, held_out, m, choices_given[m.label])
        for m in metrics
        if isinstance(m, ChoiceMetric)
    }
    values: dict[str, list[float | None]] = {}
    for metric in metrics:
        if isinstance(metric, ChoiceMetric):
            chosen = choices[metric.label]
            values[metric.label] = [
                None if choice is None else metric.score(choice, held_out.reference(i))
                for i, choice in enumerate(chosen)
            ]
        else:
            values[metric.label] = [
                metric.score(answers[i], held_out.reference(i), row.id) if metric.applies_to(row.meta.tags) else None
                for i, row in enumerate(held_out.rows)
            ]
    first = [next((c[i] for c in choices.values() if c[i] is not None), None) for i in range(len(held_out))]
    return Measured(scores, answers, first, values, generated, rows)


def choices_of(metric: ChoiceMetric, held_out: HeldOut) -> tuple[str, ...]:
    """A metric's choices; asked before any model is loaded, too.

    Raises:
        DataError: the choices don't fit the rows.
    """
    known = [(held_out.rows[i].id, held_out.reference(i)) for i in _asked(metric, held_out)]
    return metric.choices_of(known) if known else ()


def _asked(metric: Metric, held_out: HeldOut) -> list[int]:
    return [i for i, row in enumerate(held_out.rows) if metric.applies_to(row.meta.tags)]


def _answers(
    name: str, subject: Subject, held_out: HeldOut, metrics: Sequence[AnswerMetric]
) -> tuple[list[str], list[Generated | None]]:
    answers = [""] * len(held_out)
    generated: list[Generated | None] = [None] * len(held_out)
    numbers = [i for i, row in enumerate(held_out.rows) if any(m.applies_to(row.meta.tags) for m in metrics)]
    if numbers:
        with Progress(f"{name}: answering", len(numbers), "rows") as bar:
            given = subject.answer([held_out.prompt(i) for i in numbers], bar.advance)
        for i, said in zip(numbers, given, strict=True):
            found = parted(held_out.content_of(i, said.text), held_out.reference(i))
            answers[i] = found.content
            generated[i] = Generated(said.is_cut, found.thoughts, found.is_unfinished)
    return answers, generated


def _choices(
    name: str, subject: Subject, held_out: HeldOut, metric: ChoiceMetric, choices: tuple[str, ...]
) -> list[str | None]:
    """The likeliest choice for each row that the metric is asked of."""
    numbers = _asked(metric, held_out)
    found: list[str | None] = [None] * len(held_out)
    with Progress(f"{name}: choosing ({safe(metric.label, 60)})", len(numbers) * len(choices), "choices") as bar:
        for start in range(0, len(numbers), _ROWS_AT_ONCE):
            some = numbers[start : start + _ROWS_AT_ONCE]
            scores = subject.score([row for i in some for row in held_out.answered_with(i, choices)], bar.advance)
            for n, i in enumerate(some):
                own = scores[n * len(choices) : (n + 1) * len(choices)]
                _refuse_not_finite(name, held_out, [i] * len(own), own)
                found[i] = choices[metric.choose(choices, [s.nll for s in own], [s.tokens for s in own])]
    return found


def _refuse_not_finite(name: str, held_out: HeldOut, numbers: Sequence[int], scores: Sequence[RowScore]) -> None:
    wrong = [held_out.rows[i].id for i, score in zip(numbers, scores, strict=True) if not math.isfinite(score.nll)]
    if wrong:
        raise ModelError(
            f"{name}: the loss isn't a number on {counted(len(wrong), 'row')} of {held_out.split} "
            f"(the first: {safe(wrong[0], 60)}), so nothing can be compared",
            "The weights or the precision are at fault: if training went well, try model.dtype: float32",
        )
