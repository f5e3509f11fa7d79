"""A kernel for doctor to compile; Triton reads its source from a file."""

from __future__ import annotations

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

BLOCK = 256


@triton.jit  # type: ignore[untyped-decorator]
def add_one(source, target, count, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """target[i] = source[i] + 1, for i below count. Triton compiles annotations too, and knows none but its own."""
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < count
    tl.store(target + at, tl.load(source + at, mask=inside) + 1, mask=inside)
