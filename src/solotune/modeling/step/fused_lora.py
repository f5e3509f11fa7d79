"""PEFT's LoRA modules, computing in one operation (`lora_operation`).

`fuse(model)` changes the class of PEFT's modules to a subclass with another `forward`; parameters, names, saving,
loading and `disable_adapter` stay PEFT's. What isn't plain LoRA (DoRA, merged or several adapters, an output of few
rows without gradient, which bitsandbytes has a kernel for) goes PEFT's way.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import bnb as peft_bnb
from peft.tuners.lora import layer as peft_layer

from solotune.modeling.step import nf4
from solotune.modeling.step.lora_operation import lora

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that get the same input in the architectures that transformers derives from Llama, in the order of their
calls."""
_FEW_ROWS = 32
"""Without gradient and with fewer rows than this (generation), bitsandbytes multiplies without unpacking the weight."""


def fuse(model: torch.nn.Module) -> int:
    """Makes the LoRA layers of a PEFT model compute in one operation each; says how many there were.

    Call it after the adapter was added and the model is where it stays: packed weights are looked up once.
    """
    chosen = [module for module in model.modules() if _fusable(module)]
    for module in chosen:
        _fuse(module)
    for parent in model.modules():
        for names in GROUPS:
            _group([m for m in (getattr(parent, name, None) for name in names) if isinstance(m, _Fused)])
    return len(chosen)


def _fusable(module: Any) -> bool:
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


def _fuse(module: Any) -> None:
    four_bit = type(module) is peft_bnb.Linear4bit
    weight = module.base_layer.weight
    # Plain attributes: neither parameters nor buffers, so that nothing of this is saved or counted.
    module.__dict__.update(
        group=None,
        slot=0,
        # bitsandbytes' weight is a subclass of Parameter; its plain tensor is simpler to compile.
        packed=weight.data if four_bit else None,
        quant=tuple(nf4.quant_tensors(weight.quant_state)) if four_bit else (),
    )
    module.__class__ = _CLASSES[type(module)]


def _group(members: list[_Fused]) -> None:
    alike = {(m.packed is None, m.base_layer.bias is None, m.in_features) for m in members}
    if len(members) > 1 and len(alike) == 1:
        group = Group(members)
        for slot, member in enumerate(members):
            member.__dict__.update(group=group, slot=slot)


class Group:
    """Layers that get the same input one after the other: the first one's call computes them all."""

    def __init__(self, members: list[_Fused]) -> None:
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
    packed: torch.Tensor | None
    quant: tuple[torch.Tensor, ...]
    base_layer: Any
    in_features: int

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or not _applies(self, x):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc,no-any-return]  # PEFT's, of the other base
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


class FusedLinear(_Fused, peft_layer.Linear):
    """`peft.tuners.lora.layer.Linear` in one operation."""


class FusedLinear4bit(_Fused, peft_bnb.Linear4bit):
    """`peft.tuners.lora.bnb.Linear4bit` in one operation."""


_CLASSES: dict[type, type] = {peft_layer.Linear: FusedLinear, peft_bnb.Linear4bit: FusedLinear4bit}


def _applies(module: Any, x: torch.Tensor) -> bool:
    if module.disable_adapters or module.merged:
        return False
    active = module.active_adapters
    if len(active) != 1 or active[0] not in module.lora_A or active[0] in module.lora_variant:
        return False
    return torch.is_grad_enabled() or x.numel() // x.shape[-1] >= _FEW_ROWS


def _drops(module: Any) -> bool:
    dropout = _adapter_dropout(module)
    return isinstance(dropout, torch.nn.Dropout) and dropout.training and dropout.p > 0


def _adapter_dropout(module: Any) -> Any:
    return module.lora_dropout[_adapter(module)]


def _adapter(module: Any) -> str:
    return module.active_adapters[0]  # type: ignore[no-any-return]  # PEFT is untyped


def _run(members: list[Any], x: torch.Tensor, x_lora: torch.Tensor | None) -> list[torch.Tensor]:
    dtype = _compute_dtype(members[0], x)
    a_masters = [m.lora_A[_adapter(m)].weight for m in members]
    b_masters = [m.lora_B[_adapter(m)].weight for m in members]
    scalings = [m.scaling[_adapter(m)] for m in members]
    # Cast where they are used: a compiler makes one kernel of it, and a copy kept elsewhere could be out of date.
    scaled = [a.detach() * s if s != 1.0 else a.detach() for a, s in zip(a_masters, scalings, strict=True)]
    outs = lora(
        x.to(dtype),
        None if x_lora is None else x_lora.to(dtype),
        [m.packed if m.packed is not None else m.base_layer.weight for m in members],
        [tensor for m in members for tensor in m.quant],
        [m.base_layer.bias for m in members if m.base_layer.bias is not None],
        torch.cat(scaled).to(dtype) if len(scaled) > 1 else scaled[0].to(dtype),
        [b.detach().to(dtype) for b in b_masters],
        [*a_masters, *b_masters],
        scalings,
    )
    # bitsandbytes gives back what it got; autocast gives its own type.
    keeps = members[0].packed is not None and not torch.is_autocast_enabled(x.device.type)
    return [out.to(x.dtype) for out in outs] if keeps and x.dtype != dtype else outs


def _compute_dtype(module: Any, x: torch.Tensor) -> torch.dtype:
    """What PEFT's way would multiply in."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    if module.packed is not None:
        return module.base_layer.compute_dtype or x.dtype
    return x.dtype
