"""NF4 weights back to 16 bit in one kernel, to the bit what bitsandbytes computes.

bitsandbytes takes three launches for a double-quantised weight (scales, their offset, values) and its Python wrappers
cost more than the launches (`bitsandbytes/functional.py`, `dequantize_4bit`). Here: one launch, no Python objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

try:
    import triton  # type: ignore[import-untyped]  # has no stubs
    import triton.language as tl  # type: ignore[import-untyped]  # has no stubs
except ImportError:  # a CPU build of torch
    triton = None

QUANT_TENSORS = 5
"""Tensors that describe the quantisation of one weight, see `quant_tensors`."""
_BLOCKS = (64, 128, 256, 512)
"""Weights that share a scale, as the kernel knows them: it wants powers of two."""
# Of 8 to 64 rows and 2 to 8 warps, the best on an H100: 2.7 TB/s.
_ROWS, _WARPS = 64, 4


def supported(state: Any) -> bool:
    """Whether `dequantise` knows this kind of 4-bit weight."""
    nested = not state.nested or state.state2.blocksize == 256
    return bool(state.quant_type == "nf4" and state.blocksize % 2 == 0 and nested)


def quant_tensors(state: Any) -> list[torch.Tensor]:
    """What the kernel needs of a bitsandbytes `QuantState`: scales, their scales, both code books, the offset."""
    if state.nested:
        return [state.absmax, state.state2.absmax, state.state2.code, state.code, state.offset.reshape(1).float()]
    empty = state.absmax.new_empty(0)
    return [state.absmax, empty, empty, state.code, empty]


def dequantise(
    packed: torch.Tensor,
    quant: Sequence[torch.Tensor],
    shape: tuple[int, int],
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weight of the given shape, in `dtype`; `out` may be a part of the columns of a larger tensor."""
    absmax, absmax2, code2, code, offset = quant
    n_blocks = absmax.numel()
    block = shape[1] // (n_blocks // shape[0]) if n_blocks % shape[0] == 0 else 0
    kernel = packed.is_cuda and triton is not None and dtype in (torch.bfloat16, torch.float16)
    if not kernel or block not in _BLOCKS or shape[0] * shape[1] >= 2**32:  # 32-bit offsets of pairs
        made = _reference(packed, quant, shape, dtype)
        return made if out is None else out.copy_(made)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=packed.device)
    _dequantise[(triton.cdiv(n_blocks, _ROWS),)](
        packed,
        absmax,
        absmax2,
        code2,
        code,
        offset,
        out.view(torch.int32),
        n_blocks,
        shape[1] // block,
        out.stride(0) // 2,
        half=block // 2,
        n_rows=_ROWS,
        nested=absmax2.numel() > 0,
        bf16=dtype == torch.bfloat16,
        num_warps=_WARPS,
        enable_fp_fusion=False,
    )
    return out


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]  # has no stubs
    def _dequantise(  # type: ignore[no-untyped-def]  # triton reads annotations as types of its own
        packed,
        absmax,
        absmax2,
        code2,
        code,
        offset,
        out,
        n_blocks,
        across,
        stride,
        half: tl.constexpr,
        n_rows: tl.constexpr,
        nested: tl.constexpr,
        bf16: tl.constexpr,
    ):
        """Each row is one block of 2·half weights, which share a scale. A byte holds two weights, the first one high.

        A row of the weight has `across` blocks; a row of the output has `stride` pairs of weights.
        """
        rows = tl.program_id(0) * n_rows + tl.arange(0, n_rows)
        live = rows < n_blocks
        scale = tl.load(absmax + rows, mask=live, other=0)
        if nested:
            scale2 = tl.load(absmax2 + rows // 256, mask=live, other=0.0)
            # Two roundings, as in bitsandbytes; the launch forbids to contract this to one fused multiply-add.
            scale = tl.load(code2 + scale.to(tl.int32)) * scale2 + tl.load(offset)
        at = rows[:, None] * half + tl.arange(0, half)[None, :]
        byte = tl.load(packed + at, mask=live[:, None], other=0).to(tl.int32)
        first = tl.load(code + (byte >> 4)) * scale[:, None]
        second = tl.load(code + (byte & 15)) * scale[:, None]
        if bf16:
            low = first.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
            high = second.to(tl.bfloat16).to(tl.uint16, bitcast=True).to(tl.uint32)
        else:
            low = first.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
            high = second.to(tl.float16).to(tl.uint16, bitcast=True).to(tl.uint32)
        to = (rows // across * stride + rows % across * half)[:, None] + tl.arange(0, half)[None, :]
        tl.store(out + to, (low | (high << 16)).to(tl.int32, bitcast=True), mask=live[:, None])


def _reference(
    packed: torch.Tensor, quant: Sequence[torch.Tensor], shape: tuple[int, int], dtype: torch.dtype
) -> torch.Tensor:
    """The same in plain torch: for a CPU, and for what the kernel doesn't cover."""
    absmax, absmax2, code2, code, offset = quant
    numel = shape[0] * shape[1]
    scale = absmax
    if absmax2.numel():
        scale = code2[absmax.int()] * absmax2.repeat_interleave(256)[: absmax.numel()] + offset
    flat = packed.reshape(-1)
    values = torch.stack((code[(flat >> 4).int()], code[(flat & 15).int()]), dim=1).reshape(-1)[:numel]
    block = -(-numel // scale.numel())
    block = 1 << (block - 1).bit_length()  # the last block may be short
    return (values * scale.repeat_interleave(block)[:numel]).to(dtype).reshape(shape)
