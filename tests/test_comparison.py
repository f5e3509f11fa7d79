from __future__ import annotations

import numpy as np
import pytest

from solotune.comparison import mean_interval, ratio_interval, verdict


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = mean_interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_it_is_the_same_every_time() -> None:
    assert mean_interval([0.0, 1.0, 1.0, 0.0, 1.0]) == mean_interval([0.0, 1.0, 1.0, 0.0, 1.0])


def test_equal_rows_have_no_width() -> None:
    assert mean_interval([0.25] * 9) == (0.25, 0.25)


def test_a_ratio_is_weighted() -> None:
    low, high = ratio_interval([10.0, 1.0], [10, 1])
    assert (low, high) == (1.0, 1.0)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(60):
        low, high = mean_interval(generator.normal(0.0, 1.0, size=80).tolist())
        covered += low <= 0.0 <= high
    assert covered >= 51


@pytest.mark.parametrize(
    ("interval", "higher_is_better", "said"),
    [
        ((0.1, 0.2), True, "better"),
        ((0.1, 0.2), False, "worse"),
        ((-0.2, -0.1), False, "better"),
        ((-0.1, 0.2), True, "cannot tell"),
        ((0.0, 0.0), True, "cannot tell"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(
    interval: tuple[float, float], higher_is_better: bool, said: str
) -> None:
    assert verdict(interval, higher_is_better=higher_is_better) == said
