"""The GPU's memory: how much of it a stage may take, and that it takes no more."""

from __future__ import annotations

import math

import torch

from solotune.config.schema import RunConfig
from solotune.errors import MachineError

GIB = 2**30
SLACK_GIB = 1.5
"""Of a card: for CUDA itself (0.6), desktop programs (Windows keeps 0.5 and more) and fragmentation."""


def allowed(config: RunConfig, total_bytes: float) -> float:
    """Bytes that torch may take of a card of this size.

    Raises:
        MachineError: the config allows more than the card has.
    """
    if config.card.vram_gib is None:
        return total_bytes - SLACK_GIB * GIB
    if config.card.vram_gib * GIB > total_bytes:
        raise MachineError(
            f"card.vram_gib allows {config.card.vram_gib:g} GiB, and the GPU has {total_bytes / GIB:.1f}",
            "Lower it, or leave it out",
        )
    return config.card.vram_gib * GIB


def of_size(gigabytes: float) -> float:
    """Bytes that CUDA shows of a card that is sold with so many; the driver keeps the rest for itself.

    Of 24 it shows 23.65 GiB, of 12 11.76, of 80 79.1 on Linux: torch's out-of-memory messages say so.
    """
    return 0.98 * gigabytes * GIB


def here() -> tuple[str, float]:
    """Name and bytes of the GPU that stages take, as CUDA shows them.

    Raises:
        MachineError: there is none.
    """
    if not torch.cuda.is_available():
        raise MachineError(
            "the config asks for a CUDA GPU (device: cuda) and torch sees none",
            "`invoke doctor` says why; `--vram 24` plans for a card that isn't here",
        )
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory


def held_by_others(limit: float) -> float:
    """Bytes that are lacking to what a stage may take, before it has taken any: another program has them."""
    free, _ = torch.cuda.mem_get_info()
    return max(0.0, limit - free)


def enforce(config: RunConfig) -> float:
    """Makes torch fail beyond what is allowed; returns that, in bytes. On a CPU nothing is enforced.

    On WSL the driver would otherwise go on in the PC's memory, several times slower, and nobody would be told
    (microsoft/WSL#11050).
    """
    if config.device != "cuda":
        return math.inf  # `plan` compares with what is free
    total = torch.cuda.get_device_properties(0).total_memory
    limit = allowed(config, total)
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    return limit
