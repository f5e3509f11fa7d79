"""Attention within the documents of a pack, by their boundaries: no mask tensor, no work across documents.

Registered with transformers as `packed_varlen`. A pack is one row. On CUDA the kernel is torch's own FlashAttention 2,
whose backward pass is deterministic under `torch.use_deterministic_algorithms`; elsewhere a mask does the same.

Why not `torch.nn.attention.varlen.varlen_attn`, which calls the same kernel: compiled code would be specialised on the
length of the longest document and on the number of documents, or the bounds must be padded to the largest of both; the
kernel starts (documents · longest / 128) blocks per head, so padding costs time (measured: a tenth of its backward pass
for 38 empty documents, more under deterministic algorithms). And before torch 2.12 it refuses grouped-query attention,
which the kernel knows. Here the true extent is a CPU tensor: read without a sync, and nothing to specialise on.
"""

from __future__ import annotations

import functools
import heapq
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "packed_varlen"
_BLOCK = 128
"""Keys that a thread block of the backward pass takes at a time, on an H100."""


def register() -> None:
    """Makes the name known to transformers; the mask function gives none, whatever the batch holds."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def fits(head_dim: int) -> bool:
    """Whether the kernel takes heads of this size, with gradients, on every card since Ampere.

    From 193 to 224 those of compute capability 8.6, 8.9 and 12.0 have no backward pass (`sdp_utils.cpp`,
    `check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120`).
    """
    return head_dim % 8 == 0 and (head_dim <= 192 or 224 < head_dim <= 256)


def attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_ends: torch.Tensor | None = None,
    pack_extent: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' contract: (1, heads, tokens, dim) in, (1, tokens, heads, dim) out.

    Args:
        pack_ends: int32, 0 and where each document ends; longer than that is fine.
        pack_extent: on the CPU, the number of documents and the length of the longest; larger ones are fine.
        sliding_window: how many positions a token sees, itself included.

    Raises:
        ValueError: the batch is no pack, or the model's attention has what this one hasn't.
    """
    if pack_ends is None or pack_extent is None or query.shape[0] != 1:
        raise ValueError(f"{NAME} needs packs; use sdpa for padded batches and for generation")
    if dropout or kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise ValueError(f"{NAME} knows neither attention dropout nor softcap nor sinks")
    q, k, v = (x.transpose(1, 2).squeeze(0).contiguous() for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    out, _ = torch.ops.solotune.varlen(q, k, v, pack_ends, pack_extent, scale, sliding_window or 0)
    return out.unsqueeze(0), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    return None


@torch.library.custom_op("solotune::varlen", mutates_args=())
def varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ends: torch.Tensor,
    extent: torch.Tensor,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention; gives the logsumexp, too.

    Args:
        q: (tokens, heads, dim); k and v may have fewer heads.
        ends, extent: as in `attention`.
        window: 0 for all positions.
    """
    documents, longest = extent.tolist()
    bounds = ends[: documents + 1]
    if not q.is_cuda:
        out = _on_cpu(q, k, v, bounds, scale, window)
        return out.to(q.dtype), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, longest, longest, 0.0, not window, False, scale=scale, **_window(window)
    )
    return out, lse


@varlen.register_fake
def _varlen_fake(
    q: torch.Tensor,
    _k: torch.Tensor,
    _v: torch.Tensor,
    _ends: torch.Tensor,
    _extent: torch.Tensor,
    _scale: float,
    _window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    lse = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("solotune::varlen_backward", mutates_args=())
def varlen_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    ends: torch.Tensor,
    extent: torch.Tensor,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k, v."""
    documents, longest = extent.tolist()
    bounds = ends[: documents + 1]
    if not q.is_cuda:
        dq, dk, dv = (x.to(q.dtype) for x in _backward_on_cpu(dout, q, k, v, bounds, scale, window))
        return dq, dk, dv
    if torch.are_deterministic_algorithms_enabled():
        processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        empty = empty_documents(documents, longest, len(q), q.shape[1], processors)
        bounds = torch.cat([bounds, bounds[-1:].expand(empty)])
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # the state of dropout's generator
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        dout, q, k, v, out, lse, bounds, bounds, longest, longest, 0.0, not window, unused, unused,
        scale=scale, **_window(window),
    )  # fmt: skip
    return dq, dk, dv


@functools.lru_cache(maxsize=256)
def empty_documents(documents: int, longest: int, tokens: int, heads: int, processors: int) -> int:
    """How many documents without a token make the deterministic backward pass fastest.

    It starts ceil(processors / (documents · heads)) thread blocks for each document and head, which share its keys, and
    a processor runs one at a time (`flash_bwd_launch_template.h`; the number of their sums in `flash_api.cpp`). Two
    documents of 32 heads make 192 on a card of 132 processors: two rounds, the second of them half empty. With a third
    document, which has nothing to do, it is 128 larger ones in one round (benchmarks/README.md has the times).

    Args:
        documents: of a pack; all but the longest are taken to be of one length.
        longest: tokens of the longest; in a step that of the pack's class, rounded up (`recorded.extent_class`).
        tokens: of the pack.
        heads: of the queries.
        processors: of the card.
    """
    others = (tokens - longest) // max(1, documents - 1)
    lengths = [-(-length // _BLOCK) for length in (longest, *[others] * (documents - 1))]
    best, least = 0, 0.0
    for shares in range(-(-processors // (documents * heads)), 0, -1):
        padded = max(documents, -(-processors // (shares * heads)))
        if -(-processors // (padded * heads)) != shares:
            continue  # no number of documents gives so many
        # The keys of a block are seen by those queries only that come after them.
        work = [
            sum(length - key for key in range(share, length, shares)) for length in lengths for share in range(shares)
        ]
        free = [0] * processors
        for amount in work * heads:
            heapq.heapreplace(free, free[0] + amount)
        if not least or max(free) <= least:  # fewer sums take less memory
            best, least = padded - documents, max(free)
    return best


@varlen_backward.register_fake
def _varlen_backward_fake(
    _dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, ends, extent, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, ends, extent)


def _backward(ctx: Any, dout: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    q, k, v, out, lse, ends, extent = ctx.saved_tensors
    dq, dk, dv = varlen_backward(dout.contiguous(), q, k, v, out, lse, ends, extent, ctx.scale, ctx.window)
    return dq, dk, dv, None, None, None, None


varlen.register_autograd(_backward, setup_context=_setup_context)


def _window(window: int) -> dict[str, int]:
    """How many positions before and after a token it sees besides itself, as the kernel is told; -1 for all."""
    return {"window_size_left": window - 1 if window else -1, "window_size_right": 0 if window else -1}


def _on_cpu(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    p, _, _, v = _probabilities(q, k, v, bounds, scale, window)
    return (p @ v).transpose(0, 1).contiguous()


def _backward_on_cpu(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bounds: torch.Tensor,
    scale: float,
    window: int,
) -> list[torch.Tensor]:
    """Written out, since an operation's inside has no autograd."""
    group = q.shape[1] // k.shape[1]
    p, q, k, v = _probabilities(q, k, v, bounds, scale, window)
    dout = dout.transpose(0, 1).float()
    dp = dout @ v.transpose(1, 2)
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
    dk, dv = (x.unflatten(0, (-1, group)).sum(1) for x in (ds.transpose(1, 2) @ q, p.transpose(1, 2) @ dout))
    return [x.transpose(0, 1).contiguous() for x in (ds @ k, dk, dv)]


def _probabilities(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, scale: float, window: int
) -> tuple[torch.Tensor, ...]:
    """What each token attends to (heads, tokens, tokens), and q, k, v as (heads, tokens, dim); all in float32."""
    at = torch.arange(len(q))
    document = torch.searchsorted(bounds, at.to(bounds.dtype), right=True)
    mask = (document[:, None] == document[None, :]) & (at[:, None] >= at[None, :])
    if window:
        mask &= at[:, None] - at[None, :] < window
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1).float() for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    p = (q @ k.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf).softmax(-1)
    return p, q, k, v
