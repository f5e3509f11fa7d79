"""The decoder's forward and backward pass as CUDA graphs: what is left of Python in a step is head and optimiser.

A step of an 8B model has some 6,000 launches; a slow processor needs longer to make them than a fast card to run them,
and a small model is bound by them on any card. Shapes are fixed, so launches are recorded once and replayed.

What a recording can't vary is how many thread blocks attention starts. So there is one for each class of packs
(`extent_class`), and packs that aren't replayed have their extents rounded all the same: whether a pack was replayed
changes no bit, and which packs came first doesn't either. All recordings share their memory: they never run at once.

The driver holds some 80 MiB of its own for the first and 12 MiB for each further one (measured on an H100: 32 layers);
making one takes about as long as half a step. What they hold between two replays torch counts as free, yet only a
further recording can have it: `gpu_peak` counts it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from solotune.console import warn
from solotune.modeling import card, gpu_peak

_EXACT = 4
"""Up to this many rows aren't rounded: empty ones cost FlashAttention's deterministic backward pass parallelism, except
for those that `varlen_attention.empty_documents` asks for."""
_MOST = 8
"""Recordings that are kept; a further one takes the place of the one that wasn't used for longest."""


def can_record(*, dropout: float, recomputed: int, rope: str = "default") -> bool:
    """Whether a step can be recorded.

    Args:
        dropout: of the adapter. A layer that is computed again asks for the generator's state, which a recording can't.
        recomputed: how many layers are.
        rope: kind of the rotary embedding (`rope_type`). Dynamic ones look at a value on the GPU in each pass.
    """
    return not (dropout and recomputed) and rope not in ("dynamic", "longrope")


def rope_type(config: Any) -> str:
    """Of a model's config, under its name of today or the one before."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [found, *(value for value in found.values() if isinstance(value, dict))]  # one for each kind of layer
    names = [str(kind.get("rope_type", kind.get("type", "default"))) for kind in kinds]
    return next((name for name in names if name != "default"), "default")


def extent_class(extent: tuple[int, int], most_rows: int, tokens: int) -> tuple[int, int]:
    """The class of a pack: its rows and the length of its longest, rounded up.

    Args:
        extent: rows of the pack, and tokens of the longest.
        most_rows: that boundaries have room for.
        tokens: of the pack.
    """
    rows, longest = extent
    rounded = rows if rows <= _EXACT else _power_of_four(rows)
    return min(rounded, most_rows), min(max(128, 2 * _power_of_four((longest + 1) // 2)), tokens)


def _power_of_four(n: int) -> int:
    return 1 << 2 * (((n - 1).bit_length() + 1) // 2)


@dataclass(frozen=True)
class _Recording:
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


Decoder = Callable[..., torch.Tensor]
"""(input_ids, position_ids, pack_ends, class) -> hidden states."""


class RecordedDecoder:
    """Runs a decoder from recordings; gradients go to the parameters as usual.

    Args:
        decoder: gives the hidden states of a pack.
        model: whose parameters get gradients. They are looked up with the first recording and must stay where they are
            from then on: cast and load them before.
    """

    def __init__(self, decoder: Decoder, model: torch.nn.Module) -> None:
        self._decoder, self._model = decoder, model
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._parameters: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []
        self._inputs: list[torch.Tensor] = []
        self._hidden: torch.Tensor | None = None
        self._dhidden: torch.Tensor | None = None
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None
        self._turn = 0
        self._no_room = False

    def __call__(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, ends: torch.Tensor, extent: tuple[int, int]
    ) -> torch.Tensor:
        if extent not in self._recordings and not self._make(extent, [input_ids, position_ids, ends]):
            return self._decoder(input_ids, position_ids, ends, extent)
        self._recordings[extent] = recording = self._recordings.pop(extent)  # the last one is the latest used
        torch._foreach_copy_(self._inputs, [input_ids, position_ids, ends])
        self._attach()
        self._turn += 1
        trigger = torch.empty((), device=input_ids.device, requires_grad=True)
        hidden: torch.Tensor = _Replay.apply(trigger, self, recording, self._turn)
        return hidden

    def release(self) -> None:
        """Gives the recordings' memory back."""
        if not self._gradients:
            return
        gpu_peak.idle(0)
        self._recordings.clear()
        self._inputs, self._gradients, self._pool = [], [], None
        gc.collect()
        torch.cuda.empty_cache()

    def give_up(self) -> bool:
        """Records nothing from now on; whether that gives memory back."""
        self._no_room, had = True, bool(self._gradients)
        self._hidden, self._dhidden = None, None
        self.release()
        return had

    def _make(self, extent: tuple[int, int], inputs: list[torch.Tensor]) -> bool:
        """Records a class; False where there is no memory for it, and none is recorded from then on."""
        if self._no_room:
            return False
        if len(self._recordings) >= _MOST:
            del self._recordings[next(iter(self._recordings))]
        # Warming up and recording draw random numbers; a run that was resumed would have drawn once more.
        before, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
        try:
            gpu_peak.idle(0)  # its tensors lie where those of the others lay
            self._record(extent, inputs)
        except RuntimeError as error:
            if not card.is_lack_of_memory(error):
                raise
            self._no_room = True
        if self._no_room:  # outside of `except`, whose traceback holds what is to be freed
            torch.cuda.set_stream(stream)  # a capture that fails doesn't leave its own
            self.give_up()
            warn("no GPU memory is left to record the step's launches: it runs without, slower, to the same bits")
        torch.cuda.set_rng_state(before)
        return not self._no_room

    def _attach(self) -> None:
        """Gradients accumulate in tensors that stay where they are, also after `zero_grad(set_to_none=True)`."""
        if all(p.grad is g for p, g in zip(self._parameters, self._gradients, strict=True)):
            return
        torch._foreach_zero_(self._gradients)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            if parameter.grad is not None and parameter.grad is not gradient:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient

    def _record(self, extent: tuple[int, int], inputs: list[torch.Tensor]) -> None:
        arena = 0
        if self._pool is None:
            self._parameters = [p for p in self._model.parameters() if p.requires_grad]
            self._gradients = [torch.zeros_like(p) for p in self._parameters]
            self._inputs = [x.clone() for x in inputs]
            # One for all recordings: the allocator gives a block back to the stream only that had it before.
            self._stream = self._stream or torch.cuda.Stream()
            # Later classes run the same kernels, and beside a recording there is no memory for a pass outside of it.
            arena = self._warm_up(extent)
            self._pool = torch.cuda.graph_pool_handle()
        torch._foreach_copy_(self._inputs, inputs)
        assert self._hidden is not None
        torch.cuda.synchronize()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            # One block that all the rest is cut from: taken piece by piece, a tenth would lie idle between pieces.
            torch.empty(arena, dtype=torch.uint8, device=self._hidden.device)
            hidden = self._decoder(*self._inputs, extent)
            # Out of the memory that recordings share: each one's own would stay taken.
            self._hidden.copy_(hidden.detach())
        with torch.cuda.graph(backward, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            gradients = torch.autograd.grad(hidden, self._parameters, self._dhidden)
            torch._foreach_add_(self._gradients, list(gradients))
        del hidden, gradients
        self._recordings[extent] = _Recording(forward, backward)
        gpu_peak.idle(_idle_bytes(self._pool))

    def _warm_up(self, extent: tuple[int, int]) -> int:
        """Compiles, loads kernels, makes workspaces, which can't be recorded; returns the bytes that a pass takes."""
        stream = self._stream
        assert stream is not None
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            if self._hidden is None:
                hidden = self._decoder(*self._inputs, extent)
                self._hidden, self._dhidden = torch.empty_like(hidden), torch.zeros_like(hidden)
                torch.autograd.grad(hidden, self._parameters, self._dhidden)
                del hidden
            gpu_peak.idle(0)  # compiling took memory of its own
            before = torch.cuda.memory_allocated()
            torch.autograd.grad(self._decoder(*self._inputs, extent), self._parameters, self._dhidden)
        torch.cuda.current_stream().wait_stream(stream)
        return torch.cuda.max_memory_allocated() - before


def _idle_bytes(pool: Any) -> int:
    """Of a memory pool: what its segments take beyond the tensors that are alive in them."""
    segments = torch.cuda.memory_snapshot()
    return sum(s["total_size"] - s["allocated_size"] for s in segments if s["segment_pool_id"] == pool)


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, _trigger: torch.Tensor, owner: RecordedDecoder, recording: _Recording, turn: int
    ) -> torch.Tensor:
        ctx.owner, ctx.recording, ctx.turn = owner, recording, turn
        recording.forward.replay()
        assert owner._hidden is not None
        return owner._hidden.detach()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, ...]:
        assert ctx.turn == ctx.owner._turn, "another pack went forward before: this one's activations are gone"
        ctx.owner._dhidden.copy_(grads[0])
        ctx.recording.backward.replay()
        return None, None, None, None
