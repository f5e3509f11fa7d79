"""The same bits twice: seeds, deterministic kernels, threads."""

from __future__ import annotations

import os

import torch
from transformers import set_seed

from solotune.config.schema import RunConfig
from solotune.errors import MachineError


def start(config: RunConfig) -> None:
    """Sets the process up before anything is computed: call it before the model is loaded.

    `strict` makes torch refuse an operation that has no deterministic form, by name, instead of running it.
    Not transformers' `full_determinism`: that also sets CUDA_LAUNCH_BLOCKING, which costs speed and changes no bit.

    Raises:
        MachineError: the config asks for a GPU and there is none, or CUDA was started before this call.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            f"config {config.name!r} asks for a CUDA GPU (device: cuda) and torch sees none",
            "`invoke doctor` says why; `--set device=cpu` runs small models without one",
        )
    set_seed(config.seed)
    if config.determinism != "strict":
        return
    if config.device == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise MachineError(
            "determinism: strict needs CUBLAS_WORKSPACE_CONFIG=:4096:8 before CUDA starts",
            "Use the `solotune` command",
        )
    torch.use_deterministic_algorithms(True)
    # On by default in that mode, and it costs bandwidth; it only makes reads of unset memory repeatable.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
