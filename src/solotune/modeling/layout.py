"""How a step is cut to fit the card: as fast as its memory allows, the effective batch untouched.

It depends on the card's size and the config, not on what else lies on the card: the same machine gives the same layout,
and so the same adapter.
"""

from __future__ import annotations

from collections.abc import Iterator

from solotune.artifacts.run_manifest import Layout
from solotune.config.schema import RunConfig
from solotune.modeling.memory import Shapes, estimate, is_recorded

_FRAGMENTS = 1.04
"""The allocator takes this much more than it hands out (3 % in the packs measured), and gives back what doesn't fit."""
_LARGEST = 16_384
"""Tokens in a forward pass, beyond which nothing gets faster."""
_DEQUANTISED = 250
"""Turning all 4-bit weights into 16 bit takes about as long as the product with them for as many tokens: 260 on an H100
(measured), 220 on an RTX 4090 (from its data sheet)."""

_LAUNCHED = 1.05
"""A step whose launches can't be recorded takes this much longer, or more (benchmarks/README.md)."""


def choose(model: Shapes, config: RunConfig, vram_bytes: float, *, fixed_shape: bool) -> Layout | None:
    """The fastest layout that fits; None where none does.

    Args:
        vram_bytes: that torch may take.
        fixed_shape: the model and the config allow packs of one shape (`modeling/step`).
    """
    fitting = list(_fitting(model, config, vram_bytes, fixed_shape=fixed_shape))
    return min(fitting, key=lambda layout: (_cost(model, config, layout), -layout.sequences), default=None)


def smaller(model: Shapes, config: RunConfig, layout: Layout, vram_bytes: float) -> Layout | None:
    """After `layout`, which didn't fit in fact, the next that needs clearly less, or else the one that needs least.

    None where `layout` is that one itself.
    """
    needs = estimate(model, config, layout).total
    clearly_less = min(0.93 * needs * _FRAGMENTS, vram_bytes)
    found = choose(model, config, clearly_less, fixed_shape=layout.fixed_shape)
    if found is None:
        # Of weights there are as many in each layout, so that none may be clearly smaller in all.
        last = least(model, config, fixed_shape=layout.fixed_shape)
        found = last if estimate(model, config, last).total < needs else None
    return found


def least(model: Shapes, config: RunConfig, *, fixed_shape: bool) -> Layout:
    """The layout that needs least, whether it fits or not."""
    layouts = candidates(model, config, fixed_shape=fixed_shape)
    return min(layouts, key=lambda layout: estimate(model, config, layout).total)


def candidates(model: Shapes, config: RunConfig, *, fixed_shape: bool) -> Iterator[Layout]:
    """Layouts with the config's effective batch; for one size of the forward pass, the fastest first."""
    training = config.training
    effective = training.per_device_train_batch_size * training.gradient_accumulation_steps
    sizes = [n for n in range(1, effective + 1) if effective % n == 0]
    if config.card.tokens_per_micro_batch is not None:
        sizes = [config.card.tokens_per_micro_batch // training.max_length]
    elif not fixed_shape:
        sizes = [n for n in sizes if n <= training.per_device_train_batch_size]
    for n in reversed(sizes):
        if n > 1 and n * training.max_length > _LARGEST and config.card.tokens_per_micro_batch is None:
            continue
        for recomputed in _recomputed(model, config, fixed_shape=fixed_shape):
            yield Layout(n, effective // n, recomputed, fixed_shape)


def _recomputed(model: Shapes, config: RunConfig, *, fixed_shape: bool) -> list[int]:
    wanted = config.training.activation_checkpointing
    if wanted is not None:
        return [model.layers if wanted else 0]
    if config.device == "cpu":
        return [0]
    # Upstream knows all layers or none.
    return list(range(model.layers + 1)) if fixed_shape else [0, model.layers]


def _fitting(model: Shapes, config: RunConfig, vram_bytes: float, *, fixed_shape: bool) -> Iterator[Layout]:
    done: set[int] = set()
    for layout in candidates(model, config, fixed_shape=fixed_shape):
        # Recomputing more than is needed is slower, and nothing else.
        if layout.sequences not in done and estimate(model, config, layout).total * _FRAGMENTS <= vram_bytes:
            done.add(layout.sequences)
            yield layout


def _cost(model: Shapes, config: RunConfig, layout: Layout) -> float:
    """Time a token, in products with all weights: forward and the gradient of the input are two, a recomputed layer
    makes a third; weights in 4 bits are unpacked for each of them, once a forward pass."""
    share = layout.recomputed / model.layers
    tokens = layout.sequences * config.training.max_length
    products = 2 + share
    if layout.fixed_shape and not is_recorded(model, config, layout):
        products *= _LAUNCHED
    return products * (1 + (_DEQUANTISED / tokens if config.quantization else 0.0))
