"""How much memory training takes, from shapes alone: no weight is loaded.

Two ways to make a step need two accounts. On packs of one shape on a GPU (`modeling/step`) what a layer keeps for the
backward pass is known tensor by tensor. Everywhere else upstream decides, and the account is fitted to four measured
peaks. `benchmarks/README.md` has both beside what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_manifest import Layout
from solotune.config.schema import RunConfig
from solotune.errors import ModelError
from solotune.modeling.step import head
from solotune.modeling.step.recorded import can_record, rope_type

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_IN_4_BITS = 0.5 + 4 / 64
"""A weight, and its share of a 32-bit scale for 64 weights."""
_IN_4_BITS_TWICE = 0.5 + 1 / 64 + 4 / (64 * 256)
"""With `bnb_4bit_use_double_quant`: the scales have 8 bits, and a 32-bit one for 256 of them."""
_LOGITS_TILE = 4096 * 32768
"""Values that TRL's fused output head holds at once (`trl/kernels/chunked_logprob.py`)."""
_IDLE_IN_A_RECORDING, _OF_A_RECORDING = 0.035, 0.38 * 2**30
"""Share of the activations, and bytes: fitted to 13 peaks (benchmarks/README.md, which says how well they are met by a
fit that leaves them out)."""
_TO_RESIDUAL = ("o_proj", "down_proj")
"""Layers whose output is added to the residual stream, and isn't kept by itself."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, at the peak of a training step."""

    parts: dict[str, float]
    adapter_parameters: int
    base_parameters: int

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Shapes:
    """What the estimate needs of a model."""

    linear: tuple[tuple[str, int, int], ...]
    """Linear layers but the output head: name, in, out."""
    other_parameters: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    rope: str = "default"
    """Kind of the rotary embedding."""
    normed: tuple[str, ...] = ()
    """Names of linear layers whose output is normed by itself (Qwen3's q and k); both are kept."""


def shapes(model: ModelDir) -> Shapes:
    """Builds the model on the meta device: all its shapes, none of its weights.

    Raises:
        ModelError: transformers knows no such architecture.
    """
    try:
        config = AutoConfig.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{model.config} describes no model that this transformers knows: {error}") from error
    output_head = built.get_output_embeddings()
    names = [name for name, _ in built.named_modules()]
    linear = tuple(
        (name, m.in_features, m.out_features)
        for name, m in built.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not output_head
    )
    in_linear = sum(i * o for _, i, o in linear)
    text = config.get_text_config()
    return Shapes(
        linear=linear,
        other_parameters=sum(p.numel() for p in built.parameters()) - in_linear,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        rope=rope_type(text),
        normed=tuple(f"{n}_proj" for n in ("q", "k") if any(name.endswith(f".{n}_norm") for name in names)),
        vocabulary=text.vocab_size,
    )


def estimate(model: Shapes, config: RunConfig, layout: Layout) -> Memory:
    """Memory of one training step: what torch's allocator has handed out at its peak."""
    width = _BYTES[config.model.dtype]
    in_linear = sum(i * o for _, i, o in model.linear)
    adapter = _adapter_parameters(model, config)
    parts = {
        "base model": in_linear * _bytes_of_a_weight(config) + model.other_parameters * width,
        "adapter and its gradient": adapter * 8.0,
        "optimiser": adapter * (2.0 if "8bit" in config.training.optim else 8.0),
        **(_of_packs if layout.fixed_shape else _of_batches)(model, config, layout),
    }
    return Memory({k: v for k, v in parts.items() if v}, adapter, in_linear + model.other_parameters)


def is_recorded(model: Shapes, config: RunConfig, layout: Layout) -> bool:
    """Whether a step on packs of one shape is replayed from recordings (`step/recorded.py`)."""
    return can_record(dropout=config.lora.lora_dropout, recomputed=layout.recomputed, rope=model.rope)


def _bytes_of_a_weight(config: RunConfig) -> float:
    if config.quantization is None:
        return _BYTES[config.model.dtype]
    return _IN_4_BITS_TWICE if config.quantization.bnb_4bit_use_double_quant else _IN_4_BITS


def _adapter_parameters(model: Shapes, config: RunConfig) -> int:
    return sum(config.lora.r * (i + o) for _, i, o in _adapted(model, config))


def _of_packs(model: Shapes, config: RunConfig, layout: Layout) -> dict[str, float]:
    """A compiled layer keeps the residual stream twice and what attention and activation read; norms run again."""
    width = _BYTES[config.model.dtype]
    tokens = layout.sequences * config.training.max_length
    adapted = _adapted(model, config)
    outputs = sum(o for name, _, o in model.linear if not name.endswith(_TO_RESIDUAL)) / model.layers
    attention = sum(i for name, i, _ in model.linear if name.endswith("o_proj")) / model.layers
    before_norms = sum(o for name, _, o in model.linear if name.endswith(model.normed)) / model.layers
    kept = (2 * model.hidden + outputs + attention + before_norms) * width
    kept += config.lora.r * width * len(adapted) / model.layers + 4 * model.heads
    if config.lora.lora_dropout:
        kept += sum(i for _, i, _ in adapted) / model.layers  # a byte of each input: dropped or not
    inputs = tokens * model.hidden * width
    whole = model.layers - layout.recomputed
    at_the_turn = layout.recomputed * inputs + whole * tokens * kept
    in_a_recomputed_layer = layout.recomputed * inputs + tokens * kept
    on_their_way = tokens * (2 * model.intermediate + model.hidden) * width
    parts = {
        "activations": max(at_the_turn, in_a_recomputed_layer),
        "gradients on their way": on_their_way,
        "output head": head.ROWS * model.vocabulary * width,
    }
    if is_recorded(model, config, layout):
        # What lies idle between the pieces of the recording's memory, and what a recording has whatever its size.
        parts["recorded step"] = _IDLE_IN_A_RECORDING * parts["activations"] + _OF_A_RECORDING
    return parts


def _of_batches(model: Shapes, config: RunConfig, layout: Layout) -> dict[str, float]:
    """Fitted to four peaks: QLoRA and LoRA on Llama 3.1 8B's shapes, one H100, bfloat16, packs of 2,048 tokens."""
    width = _BYTES[config.model.dtype]
    tokens = layout.sequences * config.training.max_length
    kept = 12 * model.hidden + 3.6 * model.intermediate
    if config.lora.lora_dropout:
        # Each adapted layer keeps its own dropped-out input, where otherwise several share one.
        kept += sum(i for _, i, _ in _adapted(model, config)) / model.layers
    a_layer = tokens * kept * width
    inputs = layout.recomputed * tokens * model.hidden * width
    largest = max((i * o for _, i, o in model.linear), default=0)
    return {
        "activations": inputs + max(model.layers - layout.recomputed, 1) * a_layer,
        "attention mask": float(layout.sequences * config.training.max_length**2 * width),
        "output head": min(_LOGITS_TILE, tokens * model.vocabulary) * 4.0,
        "a layer, dequantised": largest * 2.0 if config.quantization else 0.0,
    }


def _adapted(model: Shapes, config: RunConfig) -> list[tuple[str, int, int]]:
    targets = config.lora.target_modules
    if targets == "all-linear":
        return list(model.linear)
    return [layer for layer in model.linear if any(f".{layer[0]}".endswith(f".{target}") for target in targets)]
