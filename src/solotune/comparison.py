"""Is it better? Intervals by bootstrap over rows, paired where two models answered the same rows.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: percentile intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
_SEED = 20_240_101
_AT_ONCE = 500


def mean_interval(values: Sequence[float]) -> Interval:
    """95 % interval of a mean over rows."""
    array = np.asarray(values, dtype=np.float64)
    return ratio_interval(array, np.ones_like(array))


def ratio_interval(sums: Sequence[float] | Floats, counts: Sequence[float] | Floats) -> Interval:
    """95 % interval of sum(sums) / sum(counts), rows resampled; a loss weighted by token is such a ratio."""
    top, bottom = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    resampled = np.concatenate([top[i].sum(axis=1) / bottom[i].sum(axis=1) for i in _resamples(len(top))])
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def verdict(difference: Interval, *, higher_is_better: bool) -> str:
    """`better`, `worse`, or `cannot tell` when the interval holds 0."""
    low, high = difference
    if low <= 0.0 <= high:
        return "cannot tell"
    return "better" if (low > 0.0) == higher_is_better else "worse"


def _resamples(rows: int) -> Iterator[npt.NDArray[np.intp]]:
    """Row numbers drawn with replacement, (resamples, rows) in pieces that fit into memory; the same every time."""
    generator = np.random.default_rng(_SEED)
    at_once = max(1, min(_AT_ONCE, 4_000_000 // max(rows, 1)))
    full, rest = divmod(RESAMPLES, at_once)
    for n in [at_once] * full + ([rest] if rest else []):
        yield generator.integers(0, rows, size=(n, rows))
