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
