"""The most GPU memory that this process had at once, with what recorded steps keep for themselves.

torch counts the tensors that are alive. Between two replays of a CUDA graph its activations aren't, yet nothing else
can have their place (`step/recorded.py`): they are counted here as long as the recordings exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class _Account:
    idle: int = 0
    peak_before: int = 0
    reserved_before: int = 0


_account = _Account()  # as torch's own, one for the process


def peak_bytes() -> int:
    """Since `reset`."""
    return max(_account.peak_before, torch.cuda.max_memory_allocated() + _account.idle)


def reserved_bytes() -> int:
    """That torch took from the driver at most since `reset`."""
    return max(_account.reserved_before, torch.cuda.max_memory_reserved())


def reset() -> None:
    """Begins anew, with what is taken now."""
    _account.peak_before = _account.reserved_before = 0
    torch.cuda.reset_peak_memory_stats()


def idle(held: int) -> None:
    """From now on so many bytes are kept from others without any tensor in them."""
    _account.peak_before, _account.reserved_before, _account.idle = peak_bytes(), reserved_bytes(), held
    torch.cuda.reset_peak_memory_stats()
