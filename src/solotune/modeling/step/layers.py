"""Decoder layers compiled one for all, and recomputed only where memory demands it.

One layer is compiled, and the others reuse the result: seconds instead of minutes. With the linear layers opaque
(`lora_operation`), what is left to the compiler are norms, rotary embedding, activation and residual sums, which it
fuses and, in the backward pass, computes again from what is kept anyway.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def decoder_layers(model: torch.nn.Module) -> list[Any]:
    """The layers of a transformers decoder, in order."""
    return [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")]


class StepLayers:
    """How decoder layers run in training steps of one shape; off for everything else.

    Args:
        model: whose layers.
        recomputed: how many layers, from the first, keep nothing but their input; their forward pass runs again in the
            backward pass.
        compiled: whether layers are compiled.
        random: whether what is recomputed needs the random numbers it had: with dropout.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        recomputed: int = 0,
        compiled: bool = True,
        random: bool = True,
        backend: str = "inductor",
    ) -> None:
        self._layers = decoder_layers(model)
        self._calls: list[Callable[..., Any] | None] = [None] * len(self._layers)
        if compiled:
            _set_compiler_up()
            self._calls = [torch.compile(x._call_impl, dynamic=False, backend=backend) for x in self._layers]
        # Around the compiled call, where transformers 5.23 checkpoints inside of it: there the layers that share their
        # product (`fused_lora.Group`) couldn't hand it on, which breaks the graph.
        again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=random)
        for i, layer in enumerate(self._layers[:recomputed]):
            self._calls[i] = functools.partial(again, self._calls[i] or layer._call_impl)

    def on(self) -> None:
        for layer, call in zip(self._layers, self._calls, strict=True):
            layer._compiled_call_impl = call

    def off(self) -> None:
        for layer in self._layers:
            layer._compiled_call_impl = None


def _set_compiler_up() -> None:
    # By default the partitioner keeps whatever an opaque operation reads in the backward pass, here the norms' and the
    # activation's outputs, a third of all bytes; they are cheap to compute again.
    partitioner = torch._functorch.config
    partitioner.ban_recompute_materialized_backward = False
    partitioner.ban_recompute_used_far_apart = False
    partitioner.ban_recompute_long_fusible_chains = False
    if torch.are_deterministic_algorithms_enabled():
        import torch._inductor.config as inductor

        # A kernel chosen by timing may be another one next time, and sum in another order.
        inductor.deterministic = True


def inputs_need_gradient(model: Any) -> Any:
    """Makes the first layer like the others: its input needs a gradient, so one compiled layer serves for all.

    Returns:
        The hook's handle, to remove it.
    """

    def hook(_module: torch.nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.requires_grad_(True) if torch.is_grad_enabled() else output

    return model.get_input_embeddings().register_forward_hook(hook)
