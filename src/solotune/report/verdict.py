"""Is the adapter better than its base model? In a word, and in sentences that hold the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from solotune.artifacts.measured import Comparison, EvalReport
from solotune.comparison import ROWS_FOR_A_VERDICT
from solotune.console import counted
from solotune.report.caveats import few_differ

HEADLINES = {
    "better": "Better than the base model",
    "worse": "Worse than the base model",
    "mixed": "Better in some measures, worse in others",
    "cannot tell": "It cannot be told from the base model",
}
"""A verdict -> what stands above all else."""


@dataclass(frozen=True)
class Overall:
    """The verdict over all measures."""

    verdict: str
    """`better`, `worse`, `cannot tell`, or `mixed`: better in one measure and worse in another."""
    loss: str
    """What the loss says, as a sentence."""
    metrics: list[tuple[str, list[str]]]
    """A verdict and the metrics that have it, each with its figures; without those that no metric has."""


def word(comparison: Mapping[str, Comparison]) -> str:
    """One word for all measures together."""
    found = {one.verdict for one in comparison.values()}
    if {"better", "worse"} <= found:
        return "mixed"
    return next((one for one in ("better", "worse") if one in found), "cannot tell")


def overall(report: EvalReport) -> Overall:
    """The verdict on what `evaluate` measured."""
    metrics = {name: one for name, one in report.comparison.items() if name != "loss"}
    by_verdict = [
        (verdict, [f"{name} {_figures(one)}" for name, one in metrics.items() if one.verdict == verdict])
        for verdict in ("better", "worse", "cannot tell")
    ]
    return Overall(word(report.comparison), _loss(report), [(v, names) for v, names in by_verdict if names])


def _loss(report: EvalReport) -> str:
    on = f"On {counted(report.examples, 'held-out row')} of {report.split}"
    one = report.comparison.get("loss")
    if one is None:
        return f"{on} the adapter's loss is {report.adapter.loss:.4f} nats a token."
    low, high = one.ci95
    if few_differ(one):
        by = f"{signed(one.difference, 4)} nats a token, on {counted(one.rows_better + one.rows_worse, 'row')}"
        return f"{on} the adapter's loss differs by {by}: a verdict takes {ROWS_FOR_A_VERDICT} that differ."
    if one.verdict == "cannot tell":
        return (
            f"{on} the adapter's loss differs by {signed(one.difference, 4)} nats a token, and the 95 % interval, "
            f"{signed(low, 4)} to {signed(high, 4)}, holds 0."
        )
    way = "lower" if one.difference < 0 else "higher"
    near, far = sorted((abs(low), abs(high)))
    by = f"{abs(one.difference):.4f} nats a token {way} (95 % interval {near:.4f} to {far:.4f})"
    return f"{on} the adapter's loss is {by}."


def _figures(one: Comparison) -> str:
    few = ", too few rows differ" if few_differ(one) else ""
    return f"({signed(one.difference, 3)}; {signed(one.ci95[0], 3)} to {signed(one.ci95[1], 3)}{few})"


def signed(value: float, digits: int) -> str:
    """`+0.850`, `−0.012` with a minus that is as wide as a plus, and `0.000` for what rounds to it."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
