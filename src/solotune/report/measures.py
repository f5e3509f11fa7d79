"""What was measured, as lines of tables with an interval drawn beside each: the geometry, without markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from solotune.artifacts.measured import Comparison, EvalReport, ModelScore, TagScore
from solotune.report.caveats import few_differ
from solotune.report.verdict import signed

_TAGS = 40
_WORSE_ROWS = 12
_TICKS = 5.5
"""Steps between the ends of an axis, at most."""
_SAME = 1e-9
"""Ends that are nearer than this count as one: no figure is shown that finely, and the least floats have no tenth."""


@dataclass(frozen=True)
class Axis:
    """Differences from left to right; 0 is always on it."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width; what is beyond the ends lies at them."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place in percent, what stands there)"""
        step = _round_step((self.high - self.low) / _TICKS)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(self.at(i * step), signed(i * step, digits) if i else "0") for i in numbers]


@dataclass(frozen=True)
class Line:
    """One measure, or one tag of a measure: base, adapter, and their difference."""

    name: str
    explained: str
    """The metric's options, in words."""
    n: int
    base: str
    adapter: str
    comparison: Comparison | None
    digits: int

    @property
    def difference(self) -> str:
        return signed(self.comparison.difference, self.digits) if self.comparison else ""

    @property
    def interval(self) -> str:
        return " to ".join(signed(end, self.digits) for end in self.comparison.ci95) if self.comparison else ""

    @property
    def few_differ(self) -> bool:
        return self.comparison is not None and few_differ(self.comparison)

    @property
    def verdict(self) -> str:
        return self.comparison.verdict if self.comparison else ""


@dataclass(frozen=True)
class Block:
    """Lines that share an axis."""

    name: str
    lines: list[Line]
    axis: Axis
    more: int
    """Lines that aren't shown."""


def blocks(report: EvalReport) -> list[Block]:
    """The loss, whose unit is its own, and the metrics, which are shares."""
    base, adapter, comparison = report.base, report.adapter, report.comparison
    loss = _line("loss", base, adapter, comparison.get("loss"), report.examples, "loss", "nats a token")
    metrics = [
        _line(name, base, adapter, comparison.get(name), of.n, name, report.metric_labels.get(name, ""))
        for name, of in adapter.metrics.items()
    ]
    return [_block(name, lines) for name, lines in (("Loss", [loss]), ("Metrics", metrics)) if lines]


def blocks_by_tag(report: EvalReport) -> list[Block]:
    """For each measure its tags, those of most rows first."""
    tags = report.adapter.by_tag
    measures = dict.fromkeys(["loss", *(name for of in tags.values() for name in of.metrics)])
    found = {measure: _lines_by_tag(report, measure) for measure in measures}
    return [_block(measure, lines) for measure, lines in found.items() if lines]


def _lines_by_tag(report: EvalReport, measure: str) -> list[Line]:
    lines = []
    for tag, adapter in report.adapter.by_tag.items():
        base = report.base.by_tag.get(tag)
        if base and (measure == "loss" or measure in adapter.metrics):
            n = adapter.examples if measure == "loss" else adapter.metrics[measure].n
            lines.append(_line(measure, base, adapter, report.comparison_by_tag.get(tag, {}).get(measure), n, tag, ""))
    return sorted(lines, key=lambda line: (-line.n, line.name))


@dataclass(frozen=True)
class Worsened:
    """The rows that the adapter made worse by one measure."""

    measure: str
    count: int
    """All of them."""
    shown: list[tuple[str, str]]
    """(id, difference), the worst first."""


def worsened(report: EvalReport) -> list[Worsened]:
    """For each measure that has such rows."""
    found = []
    for measure, rows in report.worse_rows.items():
        one = report.comparison.get(measure)
        shown = [(row.id, signed(row.difference, _digits(measure))) for row in rows[:_WORSE_ROWS]]
        found.append(Worsened(measure, max(len(rows), one.rows_worse if one else 0), shown))
    return [one for one in found if one.shown]


def axis_over(values: Iterable[float]) -> Axis:
    """An axis that holds 0 and all values, with room for a mark at its ends."""
    finite = [0.0, *(value for value in values if math.isfinite(value))]
    low, high = min(finite), max(finite)
    if high - low < _SAME:
        return Axis(-1.0, 1.0)
    margin = 0.04 * (high - low)
    return Axis(low - margin, high + margin)


def _round_step(wanted: float) -> float:
    """The smallest of …, 0.1, 0.2, 0.5, 1, … that isn't below."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted * (1 - 1e-9))


def _block(name: str, lines: Sequence[Line]) -> Block:
    shown = list(lines[:_TAGS])
    compared = [line.comparison for line in shown if line.comparison]
    axis = axis_over(end for one in compared for end in (*one.ci95, one.difference))
    return Block(name, shown, axis, len(lines) - len(shown))


def _line(
    measure: str,
    base: ModelScore | TagScore,
    adapter: ModelScore | TagScore,
    comparison: Comparison | None,
    n: int,
    name: str,
    explained: str,
) -> Line:
    return Line(name, explained, n, _value(measure, base), _value(measure, adapter), comparison, _digits(measure))


def _value(measure: str, of: ModelScore | TagScore) -> str:
    if measure == "loss":
        return f"{of.loss:.4f}"
    return f"{of.metrics[measure].value:.3f}" if measure in of.metrics else ""


def _digits(measure: str) -> int:
    return 4 if measure == "loss" else 3
