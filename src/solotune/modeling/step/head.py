"""Output head and loss in one: logits exist for some rows at a time, and the backward pass costs no third product.

The gradient of the hidden states is computed with the loss, while the logits are there (the idea is Liger's,
`liger_kernel/ops/fused_linear_cross_entropy.py`); TRL's head computes the logits again in the backward pass
(`trl/kernels/chunked_logprob.py`). Only for a frozen head without bias, scale or soft cap: see `supported`.
"""

from __future__ import annotations

from typing import Any

import torch

try:
    import triton  # type: ignore[import-untyped]  # has no stubs
    import triton.language as tl  # type: ignore[import-untyped]  # has no stubs
except ImportError:  # a CPU build of torch
    triton = None

ROWS = 1024
"""Rows of logits at a time: 250 MiB for a vocabulary of 128k."""
CHANGES_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "output_multiplier",
    "lm_head_multiplier",
)
"""Keys of a config.json that make logits something else than `hidden · Wᵀ`, unless they are null or 1."""


def supported(model: Any) -> bool:
    """Whether logits are nothing but `hidden · Wᵀ`, W frozen."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    return plain and all(getattr(config, name, None) in (None, 1.0) for name in CHANGES_LOGITS)


def summed_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, at: torch.Tensor | None = None
) -> torch.Tensor:
    """The summed negative log-likelihood of labels (tokens,) given hidden states (tokens, features).

    Args:
        hidden: of every position.
        weight: (vocabulary, features) of the frozen head.
        labels: the token that each position should predict, negative where none; already shifted.
        at: the positions that have a label, when the caller knows them; the others are left out then.
    """
    if at is not None:
        hidden, labels = hidden.index_select(0, at), labels.index_select(0, at)
    needs_gradient = hidden.requires_grad and torch.is_grad_enabled()
    loss: torch.Tensor = _Head.apply(hidden, weight.to(hidden.dtype), labels, needs_gradient)
    return loss


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, needs_gradient: bool
    ) -> torch.Tensor:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if needs_gradient else None
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            logits = torch.mm(hidden[part], weight.t())
            losses[part] = _losses_and_gradient_(logits, labels[part])
            if gradient is not None:
                torch.mm(logits, weight, out=gradient[part])
            del logits
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].to(gradient.dtype), None, None, None


def _losses_and_gradient_(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The rows' losses; leaves their gradient in `logits`."""
    if logits.is_cuda and triton is not None:
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        n_vocab = logits.shape[1]
        _cross_entropy[(len(logits),)](logits, labels, losses, n_vocab, logits.stride(0), block=4096, num_warps=8)
        return losses
    live = labels >= 0
    log_p = logits.float().log_softmax(-1)
    at = labels.clamp(min=0).unsqueeze(1)
    p = log_p.exp()
    p.scatter_add_(1, at, -torch.ones_like(at, dtype=p.dtype))
    logits.copy_(p * live.unsqueeze(1))
    return torch.where(live, -log_p.gather(1, at).squeeze(1), 0.0)


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]  # has no stubs
    def _cross_entropy(  # type: ignore[no-untyped-def]  # triton reads annotations as types of its own
        logits, labels, losses, n_vocab, stride, block: tl.constexpr
    ):
        """One row: its loss; and the gradient, softmax minus one-hot, in the place of the logits."""
        row = tl.program_id(0).to(tl.int64)
        base = logits + row * stride
        label = tl.load(labels + row)
        high = -float("inf")
        total = 0.0
        for start in range(0, n_vocab, block):
            at = start + tl.arange(0, block)
            z = tl.load(base + at, mask=at < n_vocab, other=-float("inf")).to(tl.float32)
            new = tl.maximum(high, tl.max(z, 0))
            total = total * tl.exp(high - new) + tl.sum(tl.exp(z - new), 0)
            high = new
        lse = high + tl.log(total)
        live = label >= 0
        chosen = tl.load(base + tl.maximum(label, 0)).to(tl.float32)
        tl.store(losses + row, tl.where(live, lse - chosen, 0.0))
        # Every thread must have read the label's logit before one writes over it.
        tl.debug_barrier()
        for start in range(0, n_vocab, block):
            at = start + tl.arange(0, block)
            z = tl.load(base + at, mask=at < n_vocab, other=-float("inf")).to(tl.float32)
            p = tl.exp(z - lse) - tl.where(at == label, 1.0, 0.0)
            tl.store(base + at, tl.where(live, p, 0.0), mask=at < n_vocab)
