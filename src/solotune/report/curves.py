"""What training logged, as curves that are small enough to draw and still show every spike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from solotune.report.gathered import LogLine

Points = list[tuple[int, float]]

_SMOOTHED_FROM = 20
"""Points; fewer of them need no hint."""
_NEIGHBOURS = 40
"""The smoothed curve is the mean over this share of all points."""


class Curves(msgspec.Struct, frozen=True):
    """(step, value) pairs, ascending by step; empty where nothing was logged."""

    loss: Points
    """Of each step, nats a token."""
    smoothed: Points
    """Mean over neighbouring steps; empty where there are few."""
    val: Points
    """Nats a token."""
    learning_rate: Points
    grad_norm: Points
    """Before clipping."""
    tokens_per_second: Points
    vram_gib: Points
    """That the process has had at most."""
    neighbours: int
    """Logged steps that a smoothed value is the mean of."""


def curves(log: Sequence[LogLine], most: int = 800) -> Curves:
    """The curves of a run.

    Args:
        log: the lines of metrics.jsonl, ascending by step.
        most: points of a curve. Beyond it, the lowest and the highest of neighbouring points stand for all of them.
    """
    loss = _points(log, lambda line: line.loss)
    neighbours = max(5, len(loss) // _NEIGHBOURS) if len(loss) >= _SMOOTHED_FROM else 0
    return Curves(
        _thinned(loss, most),
        _evenly(_smoothed(loss, neighbours), most // 4) if neighbours else [],
        _thinned(_points(log, lambda line: line.eval_loss), most),
        _thinned(_points(log, lambda line: line.learning_rate), most // 2),
        _thinned(_points(log, lambda line: line.grad_norm), most // 2),
        _thinned(_points(log, lambda line: line.tokens_per_second), most // 2),
        _thinned(_points(log, lambda line: line.vram_bytes and line.vram_bytes / 2**30), most // 2),
        neighbours,
    )


def _points(log: Sequence[LogLine], value_of: Callable[[LogLine], float | None]) -> Points:
    return [(line.step, value) for line in log if (value := value_of(line)) is not None]


def _smoothed(points: Points, neighbours: int) -> Points:
    """The mean over a window that is cut where the curve ends."""
    sums = np.concatenate([[0.0], np.cumsum([value for _, value in points])])
    at = np.arange(len(points))
    start, end = np.maximum(at - neighbours // 2, 0), np.minimum(at + neighbours // 2 + 1, len(points))
    means = (sums[end] - sums[start]) / (end - start)
    return [(step, mean) for (step, _), mean in zip(points, means.tolist(), strict=True)]


def _thinned(points: Points, most: int) -> Points:
    if len(points) <= most:
        return _short(points)
    kept: list[int] = [0, len(points) - 1]
    values = [value for _, value in points]
    bounds = np.linspace(0, len(points), most // 2 + 1).astype(int).tolist()
    for start, end in pairwise(bounds):
        kept += [min(range(start, end), key=values.__getitem__), max(range(start, end), key=values.__getitem__)]
    return _short([points[i] for i in sorted(set(kept))])


def _evenly(points: Points, most: int) -> Points:
    if len(points) <= most:
        return _short(points)
    return _short([points[i] for i in sorted(set(np.linspace(0, len(points) - 1, most).astype(int).tolist()))])


def _short(points: Points) -> Points:
    """Values with as many digits as can be seen."""
    return [(step, float(f"{value:.5g}")) for step, value in points]
