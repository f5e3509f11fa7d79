"""LoRA on frozen linear layers as one operation: what PEFT computes, without its intermediate tensors.

PEFT computes `base(x) + B(A(dropout(x))) * scaling` in six operations, each of which reads and writes a whole activation,
and casts x to the adapter's float32 (`peft/tuners/lora/bnb.py`, `Linear4bit.forward`). Here the product with A is as wide
as the layers that share an input (q, k, v; gate, up), the product with B is added by the matrix product that computes it,
and a 4-bit weight is turned back into 16 bit right before its use, twice a step, and never kept.

`fuse(model)` changes the class of PEFT's modules to a subclass with another `forward`; parameters, names, saving, loading
and `disable_adapter` stay PEFT's. What isn't plain LoRA (DoRA, merged or several adapters, an output of few rows without
gradient, which bitsandbytes has a kernel for) goes PEFT's way.

The operation is opaque to torch.compile. That matters for memory: a compiler that saw the 16-bit weight would keep it
for the backward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import layer as peft_layer

from solotune.modeling.step import nf4

try:
    from peft.tuners.lora import bnb as peft_bnb

    _LINEAR_4BIT: type | None = peft_bnb.Linear4bit
except (ImportError, AttributeError):
    _LINEAR_4BIT = None

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that get the same input in the architectures that transformers derives from Llama, in the order of their calls."""
_FEW_ROWS = 32
"""Without gradient and with fewer rows than this (generation), bitsandbytes multiplies without unpacking the weight."""


# --- the operation ---------------------------------------------------------------------------------------------------


def _weight(weights: Sequence[torch.Tensor], quants: Sequence[torch.Tensor], i: int, shape: tuple[int, int], dtype: torch.dtype,
            out: torch.Tensor | None = None) -> torch.Tensor:  # fmt: skip
    if not quants:
        return weights[i].to(dtype)
    n = nf4.QUANT_TENSORS
    return nf4.dequantise(weights[i], list(quants[n * i : n * i + n]), shape, dtype, out)


def _product_float32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left · right, in float32: gradients of float32 weights aren't rounded to 16 bit on the way."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left.float(), right.float())


def _columns(bs: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(b.shape[1] for b in bs))
    return list(zip([0, *ends[:-1]], ends, strict=True))


_PAD = 64
"""Columns by which a product is widened: as many as a tile has; fewer make the rows start off the tiles' alignment."""
_WIDE = 3
"""A product is widened when it has this many times more columns out than in: the copy of its input must pay."""


def _forward(
    x: torch.Tensor,
    x_lora: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    quants: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    a: torch.Tensor,
    bs: Sequence[torch.Tensor],
    masters: Sequence[torch.Tensor],
    scalings: Sequence[float],
) -> list[torch.Tensor]:
    """y_i = x·W_iᵀ + bias_i + (x_lora·A_iᵀ)·B_iᵀ for layers i that share x; last, the product with A.

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
    del masters, scalings
    rows = x.reshape(-1, x.shape[-1])
    n_in, n_rank = rows.shape[1], a.shape[0]
    t = torch.mm(rows if x_lora is None else x_lora.reshape(rows.shape), a.t())
    columns = _columns(bs)
    # y += t·Bᵀ reads and writes all of y. Where y is much wider than x, it costs less to append t to x and B to W.
    wide = quants and rows.is_cuda and n_rank <= _PAD and sum(len(b) for b in bs) >= _WIDE * n_in
    if wide:
        wide_rows = rows.new_empty(len(rows), n_in + _PAD)
        wide_rows[:, :n_in] = rows
        wide_rows[:, n_in : n_in + n_rank] = t
        wide_rows[:, n_in + n_rank :] = 0
    out = []
    for i, (b, (start, end)) in enumerate(zip(bs, columns, strict=True)):
        if wide:
            weight = rows.new_empty(len(b), n_in + _PAD)
            _weight(weights, quants, i, (len(b), n_in), x.dtype, out=weight[:, :n_in])
            weight[:, n_in:] = 0
            weight[:, n_in + start : n_in + end] = b
            y = torch.addmm(biases[i].to(x.dtype), wide_rows, weight.t()) if biases else torch.mm(wide_rows, weight.t())
        else:
            weight = _weight(weights, quants, i, (len(b), n_in), x.dtype)
            y = torch.addmm(biases[i].to(x.dtype), rows, weight.t()) if biases else torch.mm(rows, weight.t())
            y.addmm_(t[:, start:end], b.t())
        del weight
        out.append(y.view(*x.shape[:-1], len(b)))
    return [*out, t]


def _forward_fake(x, x_lora, weights, quants, biases, a, bs, masters, scalings):  # type: ignore[no-untyped-def]
    out = [x.new_empty(*x.shape[:-1], b.shape[0]) for b in bs]
    return [*out, x.new_empty(x.numel() // x.shape[-1], a.shape[0])]


def _backward_input(
    dys: Sequence[torch.Tensor],
    t: torch.Tensor,
    weights: Sequence[torch.Tensor],
    quants: Sequence[torch.Tensor],
    a: torch.Tensor,
    bs: Sequence[torch.Tensor],
    needs_dx: bool,
    dropout: bool,
) -> list[torch.Tensor]:
    """Gradients of x and of x_lora (each may be empty), dy·B side by side, and the gradient of each B."""
    columns = _columns(bs)
    shape = (*dys[0].shape[:-1], a.shape[1])
    dys = [dy.reshape(-1, dy.shape[-1]) for dy in dys]
    u = torch.empty_like(t)
    dbs = []
    for dy, b, (start, end) in zip(dys, bs, columns, strict=True):
        torch.mm(dy, b, out=u[:, start:end])
        dbs.append(_product_float32(dy.t(), t[:, start:end]))
    dx, dx_lora = t.new_empty(0), t.new_empty(0)
    if needs_dx:
        n_in, n_out, n_rank = a.shape[1], dys[0].shape[1], a.shape[0]
        if quants and t.is_cuda and not dropout and len(dys) == 1 and n_rank <= _PAD and n_in >= _WIDE * n_out:
            # As in the forward pass: append u to dy and A to W.
            wide = t.new_empty(len(t), n_out + _PAD)
            wide[:, :n_out] = dys[0]
            wide[:, n_out : n_out + n_rank] = u
            wide[:, n_out + n_rank :] = 0
            weight = t.new_empty(n_out + _PAD, n_in)
            _weight(weights, quants, 0, (n_out, n_in), t.dtype, out=weight[:n_out])
            weight[n_out : n_out + n_rank] = a
            weight[n_out + n_rank :] = 0
            dx = torch.mm(wide, weight)
        else:
            for i, dy in enumerate(dys):
                weight = _weight(weights, quants, i, (dy.shape[1], n_in), t.dtype)
                dx = torch.mm(dy, weight) if i == 0 else dx.addmm_(dy, weight)
                del weight
            if dropout:
                dx_lora = torch.mm(u, a).view(shape)
            else:
                dx.addmm_(u, a)
        dx = dx.view(shape)
    return [dx, dx_lora, u, *dbs]


def _backward_input_fake(dys, t, weights, quants, a, bs, needs_dx, dropout):  # type: ignore[no-untyped-def]
    shape = (*dys[0].shape[:-1], a.shape[1])
    dx = t.new_empty(shape if needs_dx else (0,))
    dx_lora = t.new_empty(shape if needs_dx and dropout else (0,))
    return [dx, dx_lora, torch.empty_like(t), *(b.new_empty(b.shape, dtype=torch.float32) for b in bs)]


def _backward_a(
    u: torch.Tensor, x_lora: torch.Tensor, bs: Sequence[torch.Tensor], scalings: Sequence[float]
) -> torch.Tensor:
    """Gradient of all A_i, one above the other."""
    da = _product_float32(u.t(), x_lora.reshape(-1, x_lora.shape[-1]))
    for scaling, (start, end) in zip(scalings, _columns(bs), strict=True):
        if scaling != 1.0:
            da[start:end] *= scaling
    return da


def _backward_a_fake(u, x_lora, bs, scalings):  # type: ignore[no-untyped-def]
    return u.new_empty((u.shape[1], x_lora.shape[-1]), dtype=torch.float32)


# `torch.library.custom_op` checks at each call what these functions keep to (no output shares memory with another); with
# some 400 calls a step that shows.
_LIBRARY = torch.library.Library("solotune", "FRAGMENT")
for _name, _signature, _function, _fake in (
    ("lora", "(Tensor x, Tensor? x_lora, Tensor[] weights, Tensor[] quants, Tensor[] biases, Tensor a, Tensor[] bs, Tensor[] masters, float[] scalings) -> Tensor[]", _forward, _forward_fake),
    ("lora_backward_input", "(Tensor[] dys, Tensor t, Tensor[] weights, Tensor[] quants, Tensor a, Tensor[] bs, bool needs_dx, bool dropout) -> Tensor[]", _backward_input, _backward_input_fake),
    ("lora_backward_a", "(Tensor u, Tensor x_lora, Tensor[] bs, float[] scalings) -> Tensor", _backward_a, _backward_a_fake),
):  # fmt: skip
    _LIBRARY.define(_name + _signature)
    _LIBRARY.impl(_name, _function, "CPU")
    _LIBRARY.impl(_name, _function, "CUDA")
    torch.library.register_fake(f"solotune::{_name}", _fake, lib=_LIBRARY)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    x, x_lora, weights, quants, biases, a, bs, masters, scalings = inputs
    ctx.scalings, ctx.n, ctx.n_quants, ctx.n_biases = scalings, len(weights), len(quants), len(biases)
    ctx.dropout = x_lora is not None
    ctx.save_for_backward(x_lora if ctx.dropout else x, output[-1], a, *bs, *weights, *quants)


def _backward(ctx: Any, grads: list[torch.Tensor | None]) -> tuple[Any, ...]:
    x_lora, t, a, *saved = ctx.saved_tensors
    n, shape = ctx.n, x_lora.shape[:-1]
    bs, weights, quants = saved[:n], saved[n : 2 * n], saved[2 * n :]
    dys = [t.new_zeros(*shape, len(b)) if dy is None else dy.contiguous() for dy, b in zip(grads, bs, strict=False)]
    needs_dx = any(ctx.needs_input_grad[:2])
    operations = torch.ops.solotune
    dx, dx_lora, u, *dbs = operations.lora_backward_input(dys, t, weights, quants, a, bs, needs_dx, ctx.dropout)
    # By itself, because it alone reads x, which a compiler may compute again: the later, the more it has to fuse with.
    da = operations.lora_backward_a(u, x_lora, bs, ctx.scalings)
    das = [da[start:end] for start, end in _columns(bs)]
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


torch.library.register_autograd("solotune::lora", _backward, setup_context=_setup_context, lib=_LIBRARY)


# --- PEFT's modules --------------------------------------------------------------------------------------------------


class Group:
    """Layers that get the same input one after the other: the first one's call computes them all."""

    def __init__(self, members: list[Any]) -> None:
        self.members = members
        self.x: torch.Tensor | None = None
        self.outs: list[torch.Tensor | None] = []

    def take(self, slot: int, x: torch.Tensor) -> torch.Tensor | None:
        """The output of member `slot`, if it was computed from this very tensor."""
        if self.x is not x:
            return None
        out = self.outs[slot]
        self.outs[slot] = None
        if slot == len(self.members) - 1:
            self.x, self.outs = None, []
        return out


class _Fused:
    """Goes before PEFT's class in the method resolution order."""

    group: Group | None
    slot: int
    quant: tuple[torch.Tensor, ...]

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or not _applies(self, x):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc,no-any-return]
        group = self.group
        if group is not None:
            done = group.take(self.slot, x)
            if done is not None:
                return done
            if self.slot == 0 and all(_applies(m, x) and not _drops(m) for m in group.members):
                outs = _run(group.members, x, None)
                group.x, group.outs = x, [None, *outs[1:]]
                return outs[0]
        return _run([self], x, _adapter_dropout(self)(x) if _drops(self) else None)[0]


def _adapter(module: Any) -> str:
    return module.active_adapters[0]  # type: ignore[no-any-return]


def _adapter_dropout(module: Any) -> Any:
    return module.lora_dropout[_adapter(module)]


def _drops(module: Any) -> bool:
    dropout = _adapter_dropout(module)
    return isinstance(dropout, torch.nn.Dropout) and dropout.training and dropout.p > 0


def _applies(module: Any, x: torch.Tensor) -> bool:
    if module.disable_adapters or module.merged:
        return False
    active = module.active_adapters
    if len(active) != 1 or active[0] not in module.lora_A or active[0] in module.lora_variant:
        return False
    return torch.is_grad_enabled() or x.numel() // x.shape[-1] >= _FEW_ROWS


def _run(members: list[Any], x: torch.Tensor, x_lora: torch.Tensor | None) -> list[torch.Tensor]:
    dtype = _compute_dtype(members[0], x)
    given = x.dtype
    x = x.to(dtype)
    a_masters = [m.lora_A[_adapter(m)].weight for m in members]
    b_masters = [m.lora_B[_adapter(m)].weight for m in members]
    scalings = [m.scaling[_adapter(m)] for m in members]
    # Cast where they are used: a compiler makes one kernel of it, and a copy kept elsewhere could be out of date.
    scaled = [a.detach() * s if s != 1.0 else a.detach() for a, s in zip(a_masters, scalings, strict=True)]
    a = torch.cat(scaled).to(dtype) if len(scaled) > 1 else scaled[0].to(dtype)
    bs = [b.detach().to(dtype) for b in b_masters]
    bases = [m.base_layer for m in members]
    biases = [base.bias for base in bases if base.bias is not None]
    outs = torch.ops.solotune.lora(
        x,
        None if x_lora is None else x_lora.to(dtype),
        [m.packed if m.packed is not None else m.base_layer.weight for m in members],
        [tensor for m in members for tensor in m.quant],
        biases,
        a,
        bs,
        [*a_masters, *b_masters],
        scalings,
    )[:-1]
    keeps = members[0].packed is not None and not torch.is_autocast_enabled(x.device.type)
    return [out.to(given) for out in outs] if keeps and given != dtype else list(outs)


def _compute_dtype(module: Any, x: torch.Tensor) -> torch.dtype:
    """What PEFT's way would multiply in."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    if module.packed is not None:
        return module.base_layer.compute_dtype or x.dtype
    return x.dtype


class FusedLinear(_Fused, peft_layer.Linear):
    """`peft.tuners.lora.layer.Linear` in one operation."""


_CLASSES: dict[type, type] = {peft_layer.Linear: FusedLinear}
if _LINEAR_4BIT is not None:

    class FusedLinear4bit(_Fused, _LINEAR_4BIT):  # type: ignore[misc,valid-type]
        """`peft.tuners.lora.bnb.Linear4bit` in one operation."""

    _CLASSES[_LINEAR_4BIT] = FusedLinear4bit


def _fusable(module: torch.nn.Module) -> bool:
    if type(module) not in _CLASSES:
        return False
    base = module.base_layer
    if base.weight.requires_grad or any(module.lora_bias.values()) or getattr(module, "fan_in_fan_out", False):
        return False
    if any(not isinstance(d, torch.nn.Dropout | torch.nn.Identity) for d in module.lora_dropout.values()):
        return False
    if type(module) is peft_layer.Linear:
        return type(base) is torch.nn.Linear
    state = base.weight.quant_state
    return state is not None and nf4.supported(state) and not getattr(state, "packing_format_for_cpu", False)


def fuse(model: torch.nn.Module, *, groups: bool = True) -> int:
    """Makes the LoRA layers of a PEFT model compute in one operation each; says how many there were.

    Call it after the adapter was added and the model is where it stays: packed weights are looked up once.
    """
    fused = 0
    for module in model.modules():
        if not _fusable(module):
            continue
        fused += 1
        four_bit = type(module) is not peft_layer.Linear
        base: Any = module.base_layer
        # Plain attributes: neither parameters nor buffers, so that nothing of this is saved or counted.
        module.__dict__.update(
            group=None,
            slot=0,
            packed=base.weight.data if four_bit else None,
            quant=tuple(nf4.quant_tensors(base.weight.quant_state)) if four_bit else (),
        )
        # bitsandbytes' weight is a subclass of Parameter; its plain tensor is simpler to compile.
        module.__class__ = _CLASSES[type(module)]
    for parent in model.modules() if groups else ():
        for names in GROUPS:
            members = [m for m in (getattr(parent, name, None) for name in names) if isinstance(m, _Fused)]
            alike = {(m.packed is None, m.base_layer.bias is None, m.in_features) for m in members}
            if len(members) > 1 and len(alike) == 1:
                group = Group(members)
                for slot, member in enumerate(members):
                    member.__dict__.update(group=group, slot=slot)
    return fused


def unfuse(model: torch.nn.Module) -> None:
    """Gives the modules their own class back."""
    for module in model.modules():
        if isinstance(module, _Fused):
            module.__class__ = type(module).__mro__[2]
            for name in ("group", "slot", "packed", "quant"):
                module.__dict__.pop(name, None)
