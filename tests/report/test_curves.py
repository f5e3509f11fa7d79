"""Curves are small and still show what happened."""

from __future__ import annotations

import random

import pytest

from solotune.report.curves import curves
from solotune.report.gathered import LogLine


def log(losses: list[float]) -> list[LogLine]:
    return [LogLine(step + 1, loss=loss, vram_bytes=2**30) for step, loss in enumerate(losses)]


def test_a_short_log_is_drawn_as_it_is_without_a_hint() -> None:
    found = curves([*log([3.0, 2.0, 1.0]), LogLine(3, eval_loss=1.5)])
    assert found.loss == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert found.smoothed == []
    assert found.val == [(3, 1.5)]
    assert found.vram_gib == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert found.learning_rate == []


def test_nothing_logged_is_no_curve() -> None:
    assert curves([]).loss == []


def test_a_smoothed_value_is_the_mean_of_its_neighbours() -> None:
    found = curves(log([float(i % 2) for i in range(100)]))
    assert found.neighbours == 5
    assert dict(found.smoothed)[50] == pytest.approx(0.6)  # 0 1 0 1 0 or 1 0 1 0 1
    assert dict(found.smoothed)[1] == pytest.approx(1 / 3, rel=1e-4)  # 0 1 0: the window is cut


def test_a_long_log_is_thinned_and_keeps_its_spikes_and_ends() -> None:
    chance = random.Random(0)
    losses = [1 + chance.random() for _ in range(50_000)]
    losses[31_234], losses[7], losses[-1] = 99.0, 0.001, 0.5
    found = curves(log(losses), most=800)
    assert len(found.loss) <= 802
    assert len(found.smoothed) <= 200
    points = dict(found.loss)
    assert points[31_235] == 99.0
    assert points[8] == 0.001
    assert points[50_000] == 0.5
    assert found.loss == sorted(found.loss)
