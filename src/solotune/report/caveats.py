"""What a reader must know before believing the figures: noise between runs, how answers began and ended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from solotune.artifacts.measured import Answered, Comparison, EvalReport
from solotune.comparison import ROWS_FOR_A_VERDICT

BOTH = ("base", "adapter")
_MANY_CUT = 0.03
"""Share of the answers."""
_SHOWN = 8

_WHAT: tuple[tuple[str, Callable[[Answered], int]], ...] = (
    ("Answers that were cut at evaluation.max_new_tokens", lambda of: of.cut),
    ("Answers that began with a block of thoughts, at which no metric looked", lambda of: of.thoughts),
    ("Answers that began with a block of thoughts which doesn't end", lambda of: of.unfinished_thoughts),
)


def noise(report: EvalReport) -> str:
    """How far two trainings of the config lie apart, as far as somebody looked; empty: nobody did."""
    known = {name: one.noise for name, one in report.comparison.items() if one.noise is not None}
    if not known:
        return ""
    wider = [f"{name} {by:.4f}" for name, by in known.items() if by]
    by = f"intervals are wider by {', '.join(wider)} on each side" if wider else "no interval is wider"
    rest = "" if len(known) == len(report.comparison) else " Of the metrics nobody looked."
    return f"How far two trainings of this config lie apart, from {report.noise_from}: {by}.{rest}"


def few_differ(one: Comparison) -> bool:
    """Whether its interval was stretched until it holds 0; False where nobody counted."""
    return bool(one.n) and one.rows_better + one.rows_worse < ROWS_FOR_A_VERDICT


def too_few(report: EvalReport) -> str:
    """In which measures too few rows differ for any verdict; empty: in none."""
    few = [f"{name} ({one.rows_better + one.rows_worse})" for name, one in report.comparison.items() if few_differ(one)]
    return f"Fewer than {ROWS_FOR_A_VERDICT} rows differ, which tells nothing, in {', '.join(few)}." if few else ""


def endings(report: EvalReport, names: Collection[str] | None = None) -> list[str]:
    """What was seen, with a count for each of these models (None: all); nothing of what wasn't."""
    names = [*BOTH, *report.artefacts] if names is None else names
    answered = _answered(report, names)
    told = [
        f"{what}: {', '.join(f'{name} {count(of):,} of {of.n:,}' for name, of in answered.items())}."
        for what, count in _WHAT
        if any(count(of) for of in answered.values())
    ]
    return [*told, *_opening(report, names)]


def too_many_cut(report: EvalReport, names: Collection[str] | None = None) -> str:
    """Of which of these models (None: all) too many answers were cut, and what helps; empty: of none."""
    names = [*BOTH, *report.artefacts] if names is None else names
    often = [name for name, of in _answered(report, names).items() if of.cut > _MANY_CUT * of.n]
    if not often:
        return ""
    return (
        f"{some(often)}: more than {_MANY_CUT:.0%} of the answers were cut at evaluation.max_new_tokens, and metrics "
        f"saw them as they are. `invoke evaluate --run {report.run_id} --set evaluation.max_new_tokens=…` lets them be "
        "longer."
    )


def some(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, … and 3 more`."""
    shown = [*names[:_SHOWN], *([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]
    return " and ".join(part for part in (", ".join(shown[:-1]), *shown[-1:]) if part)


def _answered(report: EvalReport, names: Collection[str]) -> dict[str, Answered]:
    scores = {"base": report.base, "adapter": report.adapter, **report.artefacts}
    return {name: score.answered for name, score in scores.items() if name in names and score.answered}


def _opening(report: EvalReport, names: Collection[str]) -> Iterator[str]:
    if report.opening is None:
        return
    models = {name: of for name, of in report.opening.models.items() if name in names}
    if not models:
        return
    said = ", ".join(f"{name} {of.by_itself:,} of {of.examples:,}" for name, of in models.items())
    losses = ", ".join(f"{name} {of.loss_without:.4f}" for name, of in models.items())
    yield (
        f"The chat template begins answers with {report.opening.text!r}, and every model was asked behind that. Rows "
        f"on which it would have said that by itself: {said}. The loss without its tokens: {losses}."
    )
