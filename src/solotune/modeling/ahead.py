"""What the processor can do for the next step while the GPU still works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class BatchesAhead(TrainerCallback):
    """Makes the batches of the next step before the wait for this one's loss, not after it.

    In an 8B model's step of 1.1 s an H100 idled 20 ms until upstream had asked for them (benchmarks/README.md).
    Nothing is drawn at random for it: the order of an epoch is fixed with its first batch.

    Args:
        device: where batches are wanted. A copy from memory that isn't pinned waits for all work before it: they are
            made on the processor, and moved together.
        is_last: whether the batch that was made last is the epoch's last one.
    """

    def __init__(self, device: torch.device, is_last: Callable[[], bool]) -> None:
        self._device, self._is_last = device, is_last
        self._epoch: Iterator[Any] = iter(())
        self._wanted = 0
        self._made: deque[Any] = deque()

    def of(self, epoch: Iterator[Any], wanted: int) -> Iterator[Any]:
        """The batches of an epoch, for a step that wants so many."""
        if epoch is not self._epoch:
            self._epoch, self._made = epoch, deque()
        self._wanted = wanted
        return self

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._made.popleft() if self._made else send_to_device(next(self._epoch), self._device)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step + 1 >= state.max_steps:
            return
        made: list[Any] = []
        # accelerate's iterator takes the epoch for over when it is asked for more than it has: it isn't.
        while len(made) < self._wanted and not self._is_last():
            made.append(next(self._epoch))
        self._made.extend(send_to_device(batch, self._device) for batch in made)


def set_modes_once(model: torch.nn.Module) -> None:
    """Puts a model into training mode, and makes `train()` and `eval()` skip it where the mode is that already.

    Upstream calls `train()` before each forward pass (`transformers/trainer.py`, `training_step`), and 2,700 modules of
    an 8B model with its adapter take a processor 5 to 10 ms, a fast card's time for a small model's whole pass.
    """
    walk = model.train
    walk()

    def train(mode: bool = True) -> torch.nn.Module:
        return model if model.training == mode else walk(mode)

    model.train = train  # type: ignore[method-assign]
