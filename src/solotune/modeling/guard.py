"""The stop at a step whose loss or gradient isn't a number, before it reaches a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class NotFinite(Exception):
    """A step that would ruin the adapter; its optimiser step wasn't made.

    Args:
        step: counted from 1.
        loss: of the step, nats a token; may be finite where the gradient isn't.
        grad_norm: of all adapter gradients.
        rows: numbers of the rows that were in it, as they stand in train.jsonl, counted from 0.
    """

    def __init__(self, step: int, loss: float, grad_norm: float, rows: Sequence[int]) -> None:
        super().__init__(f"step {step}: loss {loss}, gradient norm {grad_norm}")
        self.step, self.loss, self.grad_norm, self.rows = step, loss, grad_norm, list(rows)


@dataclass(frozen=True)
class Step:
    """A step before its optimiser step: loss in nats a token, norm of all gradients, numbers of its rows."""

    loss: float
    grad_norm: float
    rows: list[int]


class FiniteGuard(TrainerCallback):
    """Looks at loss and gradient norm between the backward passes and the optimiser's step."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._last: tuple[float, float, list[torch.Tensor]] = (0.0, 0.0, [])
        self._loss: torch.Tensor | None = None
        self._grad_norm: Any = None
        self._rows: list[torch.Tensor] = []
        self._keep_norms_of(accelerator)

    def saw(self, loss: torch.Tensor, rows: torch.Tensor) -> None:
        """Takes note of one forward pass; nothing here waits for the device.

        Args:
            loss: a number.
            rows: numbers of its rows, shape (rows,).
        """
        detached = loss.detach()
        self._loss = detached if self._loss is None else self._loss + detached
        self._rows.append(rows)

    def forget(self) -> None:
        """Drops what was seen since the last step."""
        self._loss, self._rows = None, []

    def last_step(self) -> Step:
        """What was seen of the newest step."""
        loss, norm, rows = self._last
        return Step(loss, norm, torch.cat(rows).tolist())

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._loss is None:
            return
        loss = float(self._loss)  # the one wait of a step; its log would wait all the same
        norm = float(self._grad_norm) if self._grad_norm is not None else 0.0
        self._last = (loss, norm, self._rows)
        self._rows, self._loss = [], None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(state.global_step + 1, loss, norm, self.last_step().rows)

    def _keep_norms_of(self, accelerator: Accelerator) -> None:
        # Upstream tells no callback the norm (`transformers/trainer.py`, `_get_grad_norm`); each way to it goes here.
        clip: Callable[..., Any] = accelerator.clip_grad_norm_

        def clip_and_keep(*args: Any, **kwargs: Any) -> Any:
            self._grad_norm = clip(*args, **kwargs)
            return self._grad_norm

        accelerator.clip_grad_norm_ = clip_and_keep
