"""What training goes on from, beside the adapter: optimiser, learning rate, generators. Tensors and JSON, no pickle.

Upstream keeps these in pickles (`transformers/trainer.py`, `_save_optimizer_and_scheduler`, `_save_rng_state`). Who can
write a run's folder could write a program into them; a tensor file or JSON can hold none.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from solotune.artifacts.checkpoints import STATE_TENSORS, STATE_VALUES
from solotune.errors import ArtifactError

_CPU, _CUDA = "generator.cpu", "generator.cuda"


@dataclass(frozen=True)
class Generators:
    """The state of every generator of random numbers that upstream draws from."""

    python: Any
    numpy: Any
    torch: dict[str, torch.Tensor]
    """By device."""


def generators() -> Generators:
    """Their state now."""
    states = {_CPU: torch.get_rng_state()}
    if torch.cuda.is_available():
        states[_CUDA] = torch.cuda.get_rng_state()
    # Of NumPy's the global one: upstream and its users draw from it.
    return Generators(random.getstate(), np.random.get_state(), states)


def set_generators(state: Generators) -> None:
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    torch.set_rng_state(state.torch[_CPU])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state.torch[_CUDA])


def save_state(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Writes the state of optimiser, learning rate and all generators to `folder`."""
    tensors, values = optimizer_parts(optimizer.state_dict())
    state = generators()
    save_file({**tensors, **state.torch}, folder / STATE_TENSORS)
    kind, keys, *rest = state.numpy
    others = {
        "optimizer": values,
        "scheduler": scheduler.state_dict(),
        "python": state.python,
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }
    (folder / STATE_VALUES).write_text(json.dumps(others), encoding="utf-8")


def load_optimizer_and_scheduler(optimizer: Any, scheduler: Any, folder: Path) -> None:
    """Puts the state from `folder` into an optimiser and a scheduler made as those of the run.

    Raises:
        ArtifactError: it isn't the state of such an optimiser.
    """
    try:
        state = _values(folder)
        # Copies: safetensors maps the file, and an optimiser keeps what it gets where the type fits. Its moments would
        # lie in a file that is rotated away.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / STATE_TENSORS).items()}
        optimizer.load_state_dict(_optimizer_state(tensors, state["optimizer"]))
        scheduler.load_state_dict(state["scheduler"])
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder} doesn't hold the state of this run's optimiser ({error})",
            "Delete that checkpoint; the run goes on from the one before",
        ) from error


def load_generators(folder: Path) -> None:
    """Sets the generators of Python, NumPy and torch to their state in `folder`."""
    state = _values(folder)
    version, numbers, gauss = state["python"]
    kind, keys, *rest = state["numpy"]
    tensors = load_file(folder / STATE_TENSORS)
    set_generators(
        Generators(
            (version, tuple(numbers), gauss),
            (kind, np.array(keys, dtype=np.uint32), *rest),
            {name: tensors[name] for name in (_CPU, _CUDA) if name in tensors},
        )
    )


def optimizer_parts(state_dict: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state as tensors on the CPU (`<parameter's number>.<name>`) and what else there is.

    bitsandbytes keeps what is quantised one level deeper (`__bnb_optimizer_quant_state__`): `<number>.<name>.<name>`.
    """
    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, Any] = {}
    for path, value in _leaves(state_dict["state"]):
        if isinstance(value, torch.Tensor):
            # A copy: bitsandbytes has one table for all parameters, and safetensors refuses shared memory.
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        else:
            others[path] = value
    return tensors, {"param_groups": state_dict["param_groups"], "others": others}


def _leaves(entries: dict[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in entries.items():
        path = f"{above}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _optimizer_state(tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    of_optimizer = {key: tensor for key, tensor in tensors.items() if key not in (_CPU, _CUDA)}
    for path, value in (of_optimizer | values["others"]).items():
        number, *names, last = path.split(".")
        entries = state.setdefault(int(number), {})
        for name in names:
            entries = entries.setdefault(name, {})
        entries[last] = value
    groups = [
        {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}  # JSON has no tuples
        for group in values["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def _values(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / STATE_VALUES).read_text(encoding="utf-8"))
    return values
