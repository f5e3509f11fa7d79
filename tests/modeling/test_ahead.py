"""What is done for the next step while a GPU works changes nothing but when."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from solotune.modeling.ahead import BatchesAhead, set_modes_once

UNUSED: Any = None


class Loader:
    """Batches of one number each, with accelerate's look ahead; remembers which were made."""

    def __init__(self, batches: int) -> None:
        self.made: list[int] = []
        self.accelerator = Accelerator(cpu=True)
        dataset: Any = range(batches)
        self._loader = self.accelerator.prepare_data_loader(torch.utils.data.DataLoader(dataset))

    def __iter__(self) -> Iterator[torch.Tensor]:
        for batch in self._loader:
            self.made.append(int(batch))
            yield batch

    def is_last(self) -> bool:
        return bool(self.accelerator.gradient_state.end_of_dataloader)


def end_of_step(ahead: BatchesAhead, step: int, max_steps: int = 100) -> None:
    state: Any = SimpleNamespace(global_step=step, max_steps=max_steps)
    ahead.on_pre_optimizer_step(UNUSED, state, UNUSED)


def take(ahead: BatchesAhead, epoch: Iterator[torch.Tensor], wanted: int) -> list[int]:
    batches = ahead.of(epoch, wanted)
    return [int(next(batches)) for _ in range(wanted)]


def test_every_batch_of_two_epochs_comes_once_in_order_and_a_step_early() -> None:
    loader = Loader(7)
    ahead = BatchesAhead(torch.device("cpu"), loader.is_last)
    for epoch in range(2):
        batches = iter(loader)
        assert take(ahead, batches, 3) == [0, 1, 2]
        assert loader.made[7 * epoch :] == [0, 1, 2]
        end_of_step(ahead, 0)
        assert loader.made[7 * epoch :] == [0, 1, 2, 3, 4, 5]
        assert take(ahead, batches, 3) == [3, 4, 5]
        end_of_step(ahead, 1)
        assert take(ahead, batches, 1) == [6]
        end_of_step(ahead, 2)
    assert loader.made == 2 * [0, 1, 2, 3, 4, 5, 6]


def test_an_epoch_is_never_asked_for_more_than_it_has() -> None:
    def two() -> Iterator[int]:
        yield from (0, 1)
        pytest.fail("the epoch was taken for over")

    taken: list[int] = []
    ahead = BatchesAhead(torch.device("cpu"), lambda: len(taken) == 2)
    batches = ahead.of(two(), 2)
    taken += [next(batches), next(batches)]
    end_of_step(ahead, 0)


def test_nothing_is_made_after_the_last_step() -> None:
    loader = Loader(9)
    ahead = BatchesAhead(torch.device("cpu"), loader.is_last)
    take(ahead, iter(loader), 2)
    end_of_step(ahead, 4, max_steps=5)
    assert loader.made == [0, 1]


def test_what_was_made_of_an_epoch_isnt_given_to_another() -> None:
    loader = Loader(6)
    ahead = BatchesAhead(torch.device("cpu"), loader.is_last)
    take(ahead, iter(loader), 2)
    end_of_step(ahead, 0)
    assert take(ahead, iter(Loader(6)), 2) == [0, 1]


def test_every_part_of_a_model_follows_its_mode_and_is_asked_once() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2))
    model[0].eval()  # as PEFT leaves what it wraps
    set_modes_once(model)
    asked = []
    model[0].train = lambda mode=True: asked.append(mode) or torch.nn.Module.train(model[0], mode)  # type: ignore[method-assign,func-returns-value]
    assert model[0].training
    for _ in range(3):
        assert model.train() is model
    assert asked == []
    assert model.eval() is model
    assert not model[0].training
    model.eval()
    model.train()
    assert model[0].training
    assert asked == [False, True]
