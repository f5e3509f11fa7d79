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

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "packed_varlen"


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
        ends: int32, 0 and where each document ends; longer than that is fine.
        extent: on the CPU, the number of documents and the length of the longest.
        window: how many positions a token sees, itself included; 0 for all.
    """
    documents, longest = extent.tolist()
    if not q.is_cuda:
        (out,) = _on_cpu(q, k, v, ends[: documents + 1], scale, window)
        return out.to(q.dtype), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    bounds = ends[: documents + 1]
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, longest, longest, 0.0, not window, False,
        scale=scale, window_size_left=window - 1 if window else -1, window_size_right=0 if window else -1,
    )  # fmt: skip
    return out, lse


@varlen.register_fake
def _(q, k, v, ends, extent, scale, window):  # type: ignore[no-untyped-def]
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(
        q.shape[1], q.shape[0], dtype=torch.float32
    )


@torch.library.custom_op("solotune::varlen_backward", mutates_args=())
def varlen_backward(
    dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor,
    ends: torch.Tensor, extent: torch.Tensor, scale: float, window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of q, k, v."""
    documents, longest = extent.tolist()
    if not q.is_cuda:
        dq, dk, dv = (x.to(q.dtype) for x in _on_cpu(q, k, v, ends[: documents + 1], scale, window, dout))
        return dq, dk, dv
    bounds = ends[: documents + 1]
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)
    return torch.ops.aten._flash_attention_backward(
        dout, q, k, v, out, lse, bounds, bounds, longest, longest, 0.0, not window, unused, unused,
        scale=scale, window_size_left=window - 1 if window else -1, window_size_right=0 if window else -1,
    )  # fmt: skip


@varlen_backward.register_fake
def _(dout, q, k, v, out, lse, ends, extent, scale, window):  # type: ignore[no-untyped-def]
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, ends, extent, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output, ends, extent)


def _backward(ctx: Any, dout: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    q, k, v, out, lse, ends, extent = ctx.saved_tensors
    return (
        *varlen_backward(dout.contiguous(), q, k, v, out, lse, ends, extent, ctx.scale, ctx.window),
        None,
        None,
        None,
        None,
    )


varlen.register_autograd(_backward, setup_context=_setup_context)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_ends: torch.Tensor | None = None,
    pack_extent: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' contract: (1, heads, tokens, dim) in, (1, tokens, heads, dim) out."""
    if pack_ends is None or pack_extent is None or query.shape[0] != 1:
        raise ValueError(f"{NAME} needs packs; use sdpa for padded batches and for generation")
    if dropout or kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise ValueError(f"{NAME} knows neither attention dropout nor softcap nor sinks")
    q, k, v = (x.transpose(1, 2).squeeze(0).contiguous() for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    out, _ = torch.ops.solotune.varlen(q, k, v, pack_ends, pack_extent, scale, sliding_window or 0)
    return out.unsqueeze(0), None


def _on_cpu(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ends: torch.Tensor,
    scale: float,
    window: int,
    dout: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """The output, or the gradients for that of the output; written out, since an operation's inside has no autograd."""
    at = torch.arange(len(q))
    document = torch.searchsorted(ends, at.to(ends.dtype), right=True)
    mask = (document[:, None] == document[None, :]) & (at[:, None] >= at[None, :])
    if window:
        mask &= at[:, None] - at[None, :] < window
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.transpose(0, 1).float() for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)))
    p = (q @ k.transpose(1, 2) * scale).masked_fill(~mask, -torch.inf).softmax(-1)
    if dout is None:
        return ((p @ v).transpose(0, 1).contiguous(),)
    dout = dout.transpose(0, 1).float()
    dp = dout @ v.transpose(1, 2)
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * scale
    dk, dv = (x.unflatten(0, (-1, group)).sum(1) for x in (ds.transpose(1, 2) @ q, p.transpose(1, 2) @ dout))
    return tuple(x.transpose(0, 1).contiguous() for x in (ds @ k, dk, dv))


def bounds(lengths: list[int], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`pack_ends` of a fixed size and `pack_extent` for documents of these lengths, both on the CPU.

    The second must stay there.
    """
    ends = torch.zeros(size, dtype=torch.int32)
    ends[1 : len(lengths) + 1] = torch.tensor(lengths).cumsum(0)
    ends[len(lengths) + 1 :] = ends[len(lengths)]
    return ends, torch.tensor([len(lengths), max(lengths)])


def register() -> None:
    """Makes the name known to transformers; the mask function gives none, whatever the batch holds."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
