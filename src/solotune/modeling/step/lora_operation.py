"""LoRA on frozen linear layers that share an input, as one operation with its own gradient.

PEFT computes `base(x) + B(A(dropout(x))) * scaling` in six operations, each of which reads and writes a whole
activation, and casts x to the adapter's float32 (`peft/tuners/lora/bnb.py`, `Linear4bit.forward`). Here the product
with A is as wide as the layers that share an input, the product with B is added by the matrix product that computes it,
and a 4-bit weight is turned back into 16 bit right before its use, twice a step, and never kept.

The operation is opaque to torch.compile. That matters for memory: a compiler that saw the 16-bit weight would keep it
for the backward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from solotune.modeling.step import nf4

Tensors = Sequence[torch.Tensor]

_PAD = 64
"""Columns by which a product is widened: as many as a tile has; fewer make the rows start off the tiles' alignment."""
_WIDE = 3
"""A product is widened when it has this many times more columns out than in: the copy of its input must pay."""


def lora(
    x: torch.Tensor,
    x_lora: torch.Tensor | None,
    weights: Tensors,
    quants: Tensors,
    biases: Tensors,
    a: torch.Tensor,
    bs: Tensors,
    masters: Tensors,
    scalings: Sequence[float],
) -> list[torch.Tensor]:
    """y_i = x·W_iᵀ + bias_i + (x_lora·A_iᵀ)·B_iᵀ for layers i that share x.

    Args:
        x: (…, features), 16 bit or float32; everything below is computed in its dtype.
        x_lora: x after dropout, if there is any.
        weights: frozen, or packed to 4 bit.
        quants: five tensors for each 4-bit weight, see `nf4.quant_tensors`; empty otherwise.
        biases: empty, or one for each layer.
        a: all A_i times their scaling, one above the other, in x's dtype.
        bs: B_i in x's dtype.
        masters: the float32 parameters A_0 … B_0 …; the gradients go to them, the values aren't read.
        scalings: of each layer, for the gradient of A.
    """
    outs: list[torch.Tensor] = torch.ops.solotune.lora(x, x_lora, weights, quants, biases, a, bs, masters, scalings)
    return outs[:-1]


def _forward(
    x: torch.Tensor,
    x_lora: torch.Tensor | None,
    weights: Tensors,
    quants: Tensors,
    biases: Tensors,
    a: torch.Tensor,
    bs: Tensors,
    _masters: Tensors,
    _scalings: Sequence[float],
) -> list[torch.Tensor]:
    """As `lora`; last, the product with A, for the backward pass."""
    rows = x.reshape(-1, x.shape[-1])
    n_in = rows.shape[1]
    t = torch.mm(rows if x_lora is None else x_lora.reshape(rows.shape), a.t())
    # y += t·Bᵀ reads and writes all of y. Where y is much wider than x, it costs less to append t to x and B to W.
    wide = _beside(rows, t) if _pays(quants, t, sum(len(b) for b in bs), n_in) else None
    outs = []
    for i, (b, columns) in enumerate(zip(bs, _columns(bs), strict=True)):
        bias = biases[i].to(x.dtype) if biases else None
        if wide is not None:
            y = _product(wide, _weight_with_columns(weights, quants, i, n_in, b, columns), bias)
        else:
            y = _product(rows, _weight(weights, quants, i, (len(b), n_in), x.dtype), bias)
            y.addmm_(t[:, columns], b.t())
        outs.append(y.view(*x.shape[:-1], len(b)))
    return [*outs, t]


def _forward_fake(
    x: torch.Tensor,
    _x_lora: torch.Tensor | None,
    _weights: Tensors,
    _quants: Tensors,
    _biases: Tensors,
    a: torch.Tensor,
    bs: Tensors,
    _masters: Tensors,
    _scalings: Sequence[float],
) -> list[torch.Tensor]:
    outs = [x.new_empty(*x.shape[:-1], b.shape[0]) for b in bs]
    return [*outs, x.new_empty(x.numel() // x.shape[-1], a.shape[0])]


def _backward_input(
    dys: Tensors,
    t: torch.Tensor,
    weights: Tensors,
    quants: Tensors,
    a: torch.Tensor,
    bs: Tensors,
    needs_dx: bool,
    dropout: bool,
) -> list[torch.Tensor]:
    """Gradients of x and of x_lora (each may be empty), dy·B side by side, and the gradient of each B."""
    shape = (*dys[0].shape[:-1], a.shape[1])
    dys = [dy.reshape(-1, dy.shape[-1]) for dy in dys]
    u = torch.empty_like(t)
    dbs = []
    for dy, b, columns in zip(dys, bs, _columns(bs), strict=True):
        torch.mm(dy, b, out=u[:, columns])
        dbs.append(_product_float32(dy.t(), t[:, columns]))
    if not needs_dx:
        return [t.new_empty(0), t.new_empty(0), u, *dbs]
    n_in = a.shape[1]
    if not dropout and len(dys) == 1 and _pays(quants, u, n_in, dys[0].shape[1]):
        # As in the forward pass: append u to dy and A to W.
        dx = torch.mm(_beside(dys[0], u), _weight_with_rows(weights, quants, a, len(bs[0])))
        return [dx.view(shape), t.new_empty(0), u, *dbs]
    dx = torch.mm(dys[0], _weight(weights, quants, 0, (len(bs[0]), n_in), t.dtype))
    for i in range(1, len(dys)):
        dx.addmm_(dys[i], _weight(weights, quants, i, (len(bs[i]), n_in), t.dtype))
    if dropout:
        return [dx.view(shape), torch.mm(u, a).view(shape), u, *dbs]
    return [dx.addmm_(u, a).view(shape), t.new_empty(0), u, *dbs]


def _backward_input_fake(
    dys: Tensors,
    t: torch.Tensor,
    _weights: Tensors,
    _quants: Tensors,
    a: torch.Tensor,
    bs: Tensors,
    needs_dx: bool,
    dropout: bool,
) -> list[torch.Tensor]:
    shape = (*dys[0].shape[:-1], a.shape[1])
    dx = t.new_empty(shape if needs_dx else (0,))
    dx_lora = t.new_empty(shape if needs_dx and dropout else (0,))
    return [dx, dx_lora, torch.empty_like(t), *(b.new_empty(b.shape, dtype=torch.float32) for b in bs)]


def _backward_a(u: torch.Tensor, x_lora: torch.Tensor, bs: Tensors, scalings: Sequence[float]) -> torch.Tensor:
    """Gradient of all A_i, one above the other, in float32."""
    da = _product_float32(u.t(), x_lora.reshape(-1, x_lora.shape[-1]))
    for scaling, columns in zip(scalings, _columns(bs), strict=True):
        if scaling != 1.0:
            da[columns] *= scaling
    return da


def _backward_a_fake(u: torch.Tensor, x_lora: torch.Tensor, _bs: Tensors, _scalings: Sequence[float]) -> torch.Tensor:
    return u.new_empty((u.shape[1], x_lora.shape[-1]), dtype=torch.float32)


def _columns(bs: Tensors) -> list[slice]:
    """Where each layer's ranks are, in what has those of all layers side by side."""
    ends = [0, *itertools.accumulate(b.shape[1] for b in bs)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _pays(quants: Tensors, ranks: torch.Tensor, n_out: int, n_in: int) -> bool:
    """Whether to widen a product; a 16-bit weight would have to be copied for it."""
    return bool(quants) and ranks.is_cuda and ranks.shape[1] <= _PAD and n_out >= _WIDE * n_in


def _beside(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(rows, left + _PAD): both side by side, then zeros."""
    n_left, n_right = left.shape[1], right.shape[1]
    both = left.new_empty(len(left), n_left + _PAD)
    both[:, :n_left] = left
    both[:, n_left : n_left + n_right] = right
    both[:, n_left + n_right :] = 0
    return both


def _weight_with_columns(
    weights: Tensors, quants: Tensors, i: int, n_in: int, b: torch.Tensor, columns: slice
) -> torch.Tensor:
    """(out, in + _PAD): weight i, and B below the columns of t that are its own."""
    weight = b.new_empty(len(b), n_in + _PAD)
    _weight(weights, quants, i, (len(b), n_in), b.dtype, out=weight[:, :n_in])
    weight[:, n_in:] = 0
    weight[:, n_in + columns.start : n_in + columns.stop] = b
    return weight


def _weight_with_rows(weights: Tensors, quants: Tensors, a: torch.Tensor, n_out: int) -> torch.Tensor:
    """(out + _PAD, in): the only weight, A, then zeros."""
    n_rank, n_in = a.shape
    weight = a.new_empty(n_out + _PAD, n_in)
    _weight(weights, quants, 0, (n_out, n_in), a.dtype, out=weight[:n_out])
    weight[n_out : n_out + n_rank] = a
    weight[n_out + n_rank :] = 0
    return weight


def _weight(
    weights: Tensors,
    quants: Tensors,
    i: int,
    shape: tuple[int, int],
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    if not quants:
        return weights[i].to(dtype)
    n = nf4.QUANT_TENSORS
    return nf4.dequantise(weights[i], quants[n * i : n * i + n], shape, dtype, out)


def _product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())


def _product_float32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left · right, in float32: gradients of float32 weights aren't rounded to 16 bit on the way."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left.float(), right.float())


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    x, x_lora, weights, quants, biases, a, bs, _, scalings = inputs
    ctx.scalings, ctx.n, ctx.n_quants, ctx.n_biases = scalings, len(weights), len(quants), len(biases)
    ctx.dropout = x_lora is not None
    ctx.save_for_backward(x_lora if ctx.dropout else x, output[-1], a, *bs, *weights, *quants)


def _backward(ctx: Any, grads: list[torch.Tensor | None]) -> tuple[Any, ...]:
    x_lora, t, a, *saved = ctx.saved_tensors
    n, shape = ctx.n, x_lora.shape[:-1]
    bs, weights, quants = saved[:n], saved[n : 2 * n], saved[2 * n :]
    # The last of grads, of the product with A, isn't used by anyone.
    dys = [t.new_zeros(*shape, len(b)) if dy is None else dy.contiguous() for dy, b in zip(grads, bs, strict=False)]
    needs_dx = any(ctx.needs_input_grad[:2])
    operations = torch.ops.solotune
    dx, dx_lora, u, *dbs = operations.lora_backward_input(dys, t, weights, quants, a, bs, needs_dx, ctx.dropout)
    # By itself, because it alone reads x, which a compiler may compute again: the later, the more it has to fuse with.
    da = operations.lora_backward_a(u, x_lora, bs, ctx.scalings)
    das = [da[columns] for columns in _columns(bs)]
    return (
        dx if needs_dx else None,
        dx_lora if needs_dx and ctx.dropout else None,
        [None] * n,
        [None] * ctx.n_quants,
        [None] * ctx.n_biases,
        None,
        [None] * n,
        [*das, *dbs],
        None,
    )


_OPERATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "lora(Tensor x, Tensor? x_lora, Tensor[] weights, Tensor[] quants, Tensor[] biases, Tensor a, Tensor[] bs, "
    "Tensor[] masters, float[] scalings) -> Tensor[]": (_forward, _forward_fake),
    "lora_backward_input(Tensor[] dys, Tensor t, Tensor[] weights, Tensor[] quants, Tensor a, Tensor[] bs, "
    "bool needs_dx, bool dropout) -> Tensor[]": (_backward_input, _backward_input_fake),
    "lora_backward_a(Tensor u, Tensor x_lora, Tensor[] bs, float[] scalings) -> Tensor": (
        _backward_a,
        _backward_a_fake,
    ),
}
# `torch.library.custom_op` checks at each call what these functions keep to (no output shares memory with another);
# with some 400 calls a step that shows.
_LIBRARY = torch.library.Library("solotune", "FRAGMENT")
for _schema, (_function, _fake) in _OPERATIONS.items():
    _name = _LIBRARY.define(_schema)
    _LIBRARY.impl(_name, _function, "CPU")
    _LIBRARY.impl(_name, _function, "CUDA")
    torch.library.register_fake(f"solotune::{_name}", _fake, lib=_LIBRARY)
torch.library.register_autograd("solotune::lora", _backward, setup_context=_setup_context, lib=_LIBRARY)
