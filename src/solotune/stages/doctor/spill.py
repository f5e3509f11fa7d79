"""Does Windows move GPU memory to the PC's? Nothing fails then, it is 2 to 6 times slower.

WSL doesn't respect the driver's "prefer no sysmem fallback" (microsoft/WSL#11050). What lies in the PC's memory shows
by its speed: tens of GiB/s where the card has hundreds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from solotune.stages.doctor.finding import Finding

if TYPE_CHECKING:
    import torch

_GIB = 2**30
_PIECE = 2**29
_SHARE = 0.95
"""Of the free memory, that is filled."""
_SLOW = 1 / 4
"""Of the median rate."""


def verdict(rates: Sequence[float]) -> Finding:
    """What the copy rates of 512 MiB pieces (bytes a second, in the order in which they were allocated) say."""
    if not rates:
        return Finding("spill", "skip", "less than 0.5 GiB free")
    whole = usable(rates)
    if whole == len(rates):
        found = f"{len(rates) * _PIECE / _GIB:.1f} GiB filled, all of it at {_span(rates)}"
        return Finding("spill", "ok", found)
    gib = whole * _PIECE / _GIB
    return Finding(
        "spill",
        "warn",
        f"only {gib:.1f} of {len(rates) * _PIECE / _GIB:.1f} GiB are on the card ({_span(rates[:whole])}); "
        f"what lies beyond is in the PC's memory ({_span(rates[whole:])})",
        "Nothing fails beyond, it is several times slower: close what uses the GPU (in Windows Task Manager > "
        f"Performance > GPU), and keep what `invoke plan` says below {gib:.1f} GiB (`--vram {gib:.1f}`)",
    )


def usable(rates: Sequence[float]) -> int:
    """Pieces before the first that is much slower than the median."""
    least = _SLOW * statistics.median(rates)
    return next((i for i, rate in enumerate(rates) if rate < least), len(rates))


def _span(rates: Sequence[float]) -> str:
    low, high = min(rates, default=0) / _GIB, max(rates, default=0) / _GIB
    return f"{low:.0f} to {high:.0f} GiB/s"


def measure() -> list[float]:
    """Fills most of the free GPU memory, a second or two, and times a copy within each piece; bytes a second."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    pieces: list[torch.Tensor] = []
    rates = []
    try:
        for _ in range(int(free * _SHARE / _PIECE)):
            pieces.append(torch.ones(_PIECE, dtype=torch.uint8, device="cuda"))
            rates.append(max(_rate(pieces[-1]) for _ in range(3)))
    except torch.OutOfMemoryError:
        pass  # where memory ends with an error it doesn't spill
    finally:
        pieces.clear()
        torch.cuda.empty_cache()
    return rates


def _rate(piece: torch.Tensor) -> float:
    import torch

    half = len(piece) // 2
    torch.cuda.synchronize()
    start = time.perf_counter()
    piece[:half].copy_(piece[half:])
    torch.cuda.synchronize()
    return half / (time.perf_counter() - start)
