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
    """Bytes that CUDA shows of a card without ECC that is sold with so many GB; the driver keeps the rest for itself.

    Of 24 it shows 23.65 GiB, of 12 11.76 on Linux, as torch's out-of-memory messages say. With ECC it is less by a
    sixteenth.
    """
    return 0.98 * gigabytes * GIB


def here() -> tuple[str, float]:
    """Name and bytes of the GPU that stages take, as CUDA shows them.

    Raises:
        MachineError: there is none.
    """
    require("`--vram 24` plans for a card that isn't here")
    found = torch.cuda.get_device_properties(0)
    return found.name, found.total_memory


def require(way: str) -> None:
    """Raises MachineError, with a way out, where torch sees no GPU."""
    if not torch.cuda.is_available():
        raise MachineError(
            "the config asks for a CUDA GPU (device: cuda) and torch sees none", f"`invoke doctor` says why; {way}"
        )


def free() -> float:
    """Bytes of the GPU that nobody has, other programs included."""
    return float(torch.cuda.mem_get_info()[0])


def is_lack_of_memory(error: RuntimeError) -> bool:
    """Whether it is torch's own, the driver's or cuBLAS'; they have no class in common."""
    told = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in told)


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
