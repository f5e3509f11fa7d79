"""What training goes on from: every optimiser's state comes back as it was, to the bit and to the type."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch

from solotune.modeling.training_state import load_generators, load_optimizer_and_scheduler, save_state

KINDS: dict[str, Any] = {
    "adamw_torch": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95)),
    "adamw_torch_fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw_8bit": lambda p: bitsandbytes.optim.AdamW8bit(p, lr=0.01),
}


def made(kind: str) -> tuple[list[torch.nn.Parameter], Any, Any]:
    generator = torch.Generator().manual_seed(3)
    parameters = [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((64, 128), (7,))]
    optimizer = KINDS[kind](parameters)
    return parameters, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def step(parameters: list[torch.nn.Parameter], optimizer: Any, scheduler: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_goes_on_to_the_bit(kind: str, tmp_path: Path) -> None:
    straight, optimizer, scheduler = made(kind)
    for seed in (1, 2):
        step(straight, optimizer, scheduler, seed)
    save_state(optimizer, scheduler, tmp_path)
    resumed, other, others_scheduler = made(kind)
    with torch.no_grad():
        for ours, theirs in zip(resumed, straight, strict=True):
            ours.copy_(theirs)
    load_optimizer_and_scheduler(other, others_scheduler, tmp_path)
    for seed in (3, 4):
        step(straight, optimizer, scheduler, seed)
        step(resumed, other, others_scheduler, seed)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    groups = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (optimizer, other)]
    assert groups[0] == groups[1]
    assert isinstance(groups[1]["betas"], tuple)


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    _, optimizer, scheduler = made("adamw_torch")
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    random.gauss(0, 1)
    np.random.standard_normal()
    save_state(optimizer, scheduler, tmp_path)

    def drawn() -> tuple[float, float, float, float]:
        return random.gauss(0, 1), random.random(), float(np.random.standard_normal()), float(torch.rand(1))

    first = drawn()
    load_generators(tmp_path)
    assert drawn() == first


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    _, optimizer, scheduler = made("adamw_torch")
    save_state(optimizer, scheduler, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
