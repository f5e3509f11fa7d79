"""Token lengths as bars: the geometry, without markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 150
_TOP, _BOTTOM = 18, 128
_MOST_BINS = 40
_TICKS = 4

ByLength = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Bar:
    """A bin with rows in it; places in the drawing's units."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Histogram:
    """Bars of one split over an axis that all splits share."""

    bars: list[Bar]
    ticks: list[tuple[float, str]]
    limit_x: float | None
    """Where max_length lies, if the axis reaches so far."""
    most: int
    """Rows in the highest bar."""
    is_cut: bool
    """Some split has rows beyond the axis; they are in the last bar."""
    top: float = _TOP
    bottom: float = _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def histograms(by_split: Mapping[str, ByLength], limit: int) -> dict[str, Histogram]:
    """A histogram for each split, on one axis.

    Args:
        by_split: (tokens, rows) pairs, ascending; none empty.
        limit: tokens that a sequence may have.
    """
    if not by_split:
        return {}
    reach = max(_reach(lengths) for lengths in by_split.values())
    step = _bin_width(reach)
    bins = -(-(reach // step + 1) // _TICKS) * _TICKS  # so that every tick lies between two bins
    is_cut = any(lengths[-1][0] >= bins * step for lengths in by_split.values())
    return {split: _histogram(lengths, step, bins, limit, is_cut) for split, lengths in by_split.items()}


def _reach(lengths: ByLength) -> int:
    """How far the axis must go: to the longest row, unless that one lies far beyond nearly all others."""
    rows, seen = sum(n for _, n in lengths), 0
    for length, n in lengths:
        seen += n
        if seen >= 0.99 * rows:
            return min(lengths[-1][0], length + length // 4)
    raise AssertionError("a histogram of no rows")


def _bin_width(reach: int) -> int:
    """The smallest of 1, 2, 5, 10, … with which the bins suffice."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * _MOST_BINS > reach:
                return factor * power
        power *= 10


def _histogram(lengths: ByLength, step: int, bins: int, limit: int, is_cut: bool) -> Histogram:
    counts = [0] * bins
    for length, rows in lengths:
        counts[min(length // step, bins - 1)] += rows
    most, longest = max(counts), lengths[-1][0]
    width = WIDTH / bins
    bars = []
    for i, count in enumerate(counts):
        if count:
            # A bin with few rows beside one with many is still seen.
            height = max(1.5, (_BOTTOM - _TOP) * count / most)
            last = longest if i == bins - 1 and longest >= bins * step else (i + 1) * step - 1
            says = f"{_range(i * step, last)} tokens: {count:,} {'row' if count == 1 else 'rows'}"
            x, y = round(i * width + 0.5, 2), round(_BOTTOM - height, 2)
            bars.append(Bar(x, y, round(width - 1, 2), round(height, 2), says))
    ticks = [(round(i * WIDTH / _TICKS, 2), f"{i * bins * step // _TICKS:,}") for i in range(_TICKS + 1)]
    limit_x = round(WIDTH * limit / (bins * step), 2) if limit <= bins * step else None
    return Histogram(bars, ticks, limit_x, most, is_cut)


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"
