"""Decoder layers compiled one for all, and recomputed only where memory demands it.

One layer is compiled, and the others reuse the result: seconds instead of minutes. With the linear layers opaque
(`fused_lora`), what is left to the compiler are norms, rotary embedding, activation and residual sums, which it fuses and,
in the backward pass, computes again from what is kept anyway.
"""

from __future__ import annotations

from typing import Any

import torch


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a transformers decoder, in order."""
    return [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")]


class CompiledLayers:
    """Switches compilation on and off: on for training steps of one shape, off for everything else."""

    def __init__(self, model: torch.nn.Module, *, lean: bool = True, **options: Any) -> None:
        self.layers = decoder_layers(model)
        if lean:
            # By default the partitioner keeps whatever an opaque operation reads in the backward pass, here the norms'
            # and the activation's outputs, a third of all bytes; they are cheap to compute again.
            torch._functorch.config.ban_recompute_materialized_backward = False
            torch._functorch.config.ban_recompute_used_far_apart = False
            torch._functorch.config.ban_recompute_long_fusible_chains = False
        self._calls = [torch.compile(layer._call_impl, dynamic=False, **options) for layer in self.layers]

    def on(self) -> None:
        for layer, call in zip(self.layers, self._calls, strict=True):
            layer._compiled_call_impl = call

    def off(self) -> None:
        for layer in self.layers:
            layer._compiled_call_impl = None


def recompute(model: torch.nn.Module, first: int, *, random: bool = True) -> None:
    """Keeps nothing but the input of the `first` layers; their forward pass runs again in the backward pass.

    `random` repeats random numbers, too: needed with dropout, and impossible while a CUDA graph is recorded.
    """
    import functools

    from torch.utils.checkpoint import checkpoint

    for i, layer in enumerate(decoder_layers(model)):
        layer.gradient_checkpointing = i < first
        layer._gradient_checkpointing_func = functools.partial(
            checkpoint, use_reentrant=False, preserve_rng_state=random
        )


def inputs_need_gradient(model: Any) -> Any:
    """Makes the first layer like the others: its input needs a gradient, so one compiled layer serves for all."""

    def hook(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.requires_grad_(True) if torch.is_grad_enabled() else output

    return model.get_input_embeddings().register_forward_hook(hook)
