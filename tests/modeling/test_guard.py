"""A step that isn't finite never reaches the optimiser."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from solotune.modeling.guard import FiniteGuard, NotFinite

STATE: Any = SimpleNamespace(global_step=6)
UNUSED: Any = None


def step(guard: FiniteGuard, accelerator: Accelerator, losses: list[float], gradient: float) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), gradient)
    for number, loss in enumerate(losses):
        guard.saw(torch.tensor(loss, requires_grad=True), torch.tensor([number, 10 + number]))
    accelerator.clip_grad_norm_([weight], 1.0)
    guard.on_pre_optimizer_step(UNUSED, STATE, UNUSED)


@pytest.mark.parametrize(
    ("losses", "gradient"),
    [([1.0, float("nan")], 1.0), ([float("inf"), 1.0], 1.0), ([1.0, 1.0], float("inf")), ([1.0, 1.0], float("nan"))],
)
def test_it_stops_with_the_rows_of_that_step_alone(losses: list[float], gradient: float) -> None:
    accelerator = Accelerator(cpu=True)
    guard = FiniteGuard(accelerator)
    step(guard, accelerator, [1.0, 2.0, 3.0], 1.0)
    with pytest.raises(NotFinite) as caught:
        step(guard, accelerator, losses, gradient)
    assert (caught.value.step, caught.value.rows) == (7, [0, 10, 1, 11])


def test_a_finite_step_goes_on() -> None:
    accelerator = Accelerator(cpu=True)
    guard = FiniteGuard(accelerator)
    for _ in range(3):
        step(guard, accelerator, [1e30, 2.0], 1e10)
