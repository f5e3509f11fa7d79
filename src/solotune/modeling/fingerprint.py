"""Hashes of all that a step left, so that two trainings can be compared without keeping their tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from solotune.artifacts.run_manifest import StepFingerprint
from solotune.modeling.guard import Step
from solotune.modeling.training_state import optimizer_parts


class Fingerprints(TrainerCallback):
    """fingerprints.jsonl, a line a step: order of rows, loss, gradient norm, every tensor of adapter and optimiser.

    Args:
        path: the file; lines are added.
        last_step: what the guard saw of the step.
    """

    def __init__(self, path: Path, last_step: Callable[[], Step]) -> None:
        self._path, self._last_step = path, last_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = self._last_step()
        moments, _ = optimizer_parts(kwargs["optimizer"].state_dict())
        trained = {name: p for name, p in kwargs["model"].named_parameters() if p.requires_grad}
        line = StepFingerprint(
            step=state.global_step,
            order_sha256=hashlib.sha256(repr(step.rows).encode()).hexdigest(),
            loss=step.loss,
            grad_norm=step.grad_norm,
            adapter={name: _sha256(p) for name, p in trained.items()},
            optimizer={name: _sha256(moment) for name, moment in moments.items()},
        )
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")


def _sha256(tensor: torch.Tensor) -> str:
    # As bytes: NumPy has no bfloat16.
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()
