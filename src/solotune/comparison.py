"""Is it better? 95 % intervals by bootstrap over rows, paired where two models answered the same rows.

They are percentile intervals (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) with the mends
that few rows need; `benchmarks/eval_coverage.py` simulates how often they hold the truth.

- Scores are often 0 or 1. Where most rows agree, few resamples show that they need not: of 20 rows that are right in
  98 of 100 cases, a plain interval misses the truth two times of three. Two rows are added, an extreme one on each
  side, in the manner of Agresti & Coull (1998, doi:10.1080/00031305.1998.10480550), and for differences of pairs of
  Bonett & Price (2012, doi:10.3102/1076998611411915).
- A loss is a ratio, and long rows weigh more. Its interval is expanded as a t interval is against a normal one
  (the expanded percentile interval of Hesterberg 2015, doi:10.1080/00031305.2015.1089789), with as many rows as would
  tell as much if all weighed alike (Kish 1965, Survey Sampling). It reaches equally far to both sides (Hall 1988,
  doi:10.1111/j.2517-6161.1988.tb01709.x): of few skewed rows percentiles lean the wrong way.
- Where fewer than six rows differ, no verdict is possible: that five of five go one way happens by chance in 6 % of
  cases (sign test). Such an interval is stretched until it holds 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
ROWS_FOR_A_VERDICT = 6
"""That must differ."""
_SEED = 20_240_101
_TAIL = 0.025
_DRAWS_AT_ONCE = 2_000_000
_SAMPLES_AT_ONCE = 256
_DIGITS = 12
"""Sums in another order differ beyond them, and 0 must be 0."""


@dataclass(frozen=True)
class Sample:
    """Rows of whose `sum(top) / sum(bottom)` an interval is wanted."""

    top: Floats
    bottom: Floats | None
    """None: of whose mean."""
    tail: float = _TAIL
    """Share of the resamples that is left out on each side."""
    is_too_small: bool = False
    """The interval must hold 0."""
    is_symmetric: bool = False
    """It reaches equally far to both sides of what the rows themselves give."""


def of_scores(values: Sequence[float] | Floats) -> Sample:
    """One model's metric, a value from 0 to 1 for each row: its mean."""
    array = np.asarray(values, np.float64)
    lowest, highest = float(array.min()), float(array.max())
    ends = (0.0, 1.0) if lowest == highest else (lowest, highest)
    return Sample(np.append(array, ends), None)


def of_differences(differences: Sequence[float] | Floats) -> Sample:
    """A metric of one model minus that of another, for each row: the mean."""
    array = np.asarray(differences, np.float64)
    largest = float(np.abs(array).max()) or 1.0
    return Sample(np.append(array, (largest, -largest)), None, is_too_small=_too_few_differ(array))


def of_ratio(sums: Sequence[float] | Floats, counts: Sequence[float] | Floats) -> Sample:
    """Differences summed over the tokens of each row, and how many these are: the difference a token."""
    top, bottom = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    rows = max(2.0, float(bottom.sum() ** 2 / (bottom @ bottom)))
    wider = math.sqrt(rows / (rows - 1)) * _t_quantile(rows - 1)
    return Sample(top, bottom, NormalDist().cdf(-wider), _too_few_differ(top), is_symmetric=True)


def intervals(samples: Sequence[Sample], on_samples: Callable[[int], None] = lambda _: None) -> list[Interval]:
    """The 95 % interval of each sample, the same every time; samples of one length share their resamples.

    Args:
        samples: of any lengths.
        on_samples: called with the number of samples done, now and then.
    """
    by_length: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        by_length.setdefault(len(sample.top), []).append(i)
    found: dict[int, Interval] = {}
    for numbers in by_length.values():
        for start in range(0, len(numbers), _SAMPLES_AT_ONCE):
            some = numbers[start : start + _SAMPLES_AT_ONCE]
            found.update(zip(some, _intervals([samples[i] for i in some]), strict=True))
            on_samples(len(some))
    return [found[i] for i in range(len(samples))]


def verdict(difference: Interval, *, higher_is_better: bool) -> str:
    """`better`, `worse`, or `cannot tell` when the interval holds 0."""
    low, high = difference
    if low <= 0.0 <= high:
        return "cannot tell"
    return "better" if (low > 0.0) == higher_is_better else "worse"


def _too_few_differ(differences: Floats) -> bool:
    return int(np.count_nonzero(differences)) < ROWS_FOR_A_VERDICT


def _intervals(samples: Sequence[Sample]) -> Iterator[Interval]:
    """Of samples of one length."""
    rows = len(samples[0].top)
    tops = np.stack([sample.top for sample in samples], axis=1)
    bottoms = np.stack([np.ones(rows) if s.bottom is None else s.bottom for s in samples], axis=1)
    has_bottom = any(sample.bottom is not None for sample in samples)
    resampled = np.concatenate([(c @ tops) / ((c @ bottoms) if has_bottom else rows) for c in _resamples(rows)])
    for i, sample in enumerate(samples):
        low, high = (round(end, _DIGITS) for end in _ends(resampled[:, i], sample))
        yield (min(low, 0.0), max(high, 0.0)) if sample.is_too_small else (low, high)


def _ends(resampled: Floats, sample: Sample) -> Interval:
    if sample.is_symmetric:
        assert sample.bottom is not None
        middle = float(sample.top.sum() / sample.bottom.sum())
        reach = float(np.quantile(np.abs(resampled - middle), 1 - 2 * sample.tail))
        return middle - reach, middle + reach
    low, high = np.quantile(resampled, [sample.tail, 1 - sample.tail])
    return float(low), float(high)


def _resamples(rows: int) -> Iterator[Floats]:
    """How often each row was drawn, (resamples, rows), in pieces that fit into memory."""
    generator = np.random.default_rng(_SEED)
    at_once = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, RESAMPLES, at_once):
        n = min(at_once, RESAMPLES - start)
        drawn = generator.integers(0, rows, size=(n, rows), dtype=np.int32) + np.arange(n)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=n * rows).reshape(n, rows).astype(np.float64)


def _t_quantile(degrees: float) -> float:
    """The 97.5 % quantile of Student's t, by its density in the angle: t = sqrt(degrees) · tan(angle)."""
    angles = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(angles) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    angle = np.interp((1 - 2 * _TAIL) * below[-1], below, angles)
    return math.sqrt(degrees) * math.tan(float(angle))
