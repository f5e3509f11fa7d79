"""The same bits twice: seeds, deterministic kernels, threads."""

from __future__ import annotations

import os

import torch
from transformers import set_seed

from solotune.config.schema import RunConfig
from solotune.errors import MachineError
from solotune.modeling import card


def not_covered(config: RunConfig) -> list[str]:
    """What keeps a run of this config from being the same to the bit when it is made again, and why; empty: nothing."""
    why = {
        "strict": [],
        "seeded": ["determinism: seeded: kernels may add in another order each time, and the last bits differ"],
        "off": ["determinism: off: kernels may add in another order each time, and the last bits differ"],
    }
    return why[config.determinism]


def start(config: RunConfig, threads: int | None = None) -> None:
    """Sets the process up before anything is computed: call it before the model is loaded.

    Args:
        threads: of the processor, as the run that goes on had them: sums over several threads depend on their number.

    `strict` makes torch refuse an operation that has no deterministic form, by name, instead of running it.
    Not transformers' `full_determinism`: that also sets CUDA_LAUNCH_BLOCKING, which costs speed and changes no bit.

    Raises:
        MachineError: the config asks for a GPU and there is none, or CUDA was started before this call.
    """
    if config.device == "cuda":
        card.require("`--set device=cpu` runs small models without one")
    if threads and config.device == "cpu":
        torch.set_num_threads(threads)
    set_seed(config.seed)
    torch.use_deterministic_algorithms(config.determinism == "strict")
    if config.determinism != "strict":
        return
    if config.device == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise MachineError(
            "determinism: strict needs CUBLAS_WORKSPACE_CONFIG=:4096:8 before CUDA starts",
            "Use the `solotune` command",
        )
    # On by default in that mode, and it costs bandwidth; it only makes reads of unset memory repeatable.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
