"""How much memory training takes, from shapes alone: no weight is loaded.

An estimate. What a layer keeps for the backward pass is fitted to four measured peaks (`benchmarks/README.md`): QLoRA
and LoRA on Llama 3.1 8B's shapes, one H100, bfloat16, packs of 2,048 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.errors import ModelError

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in 4 bits, and its share of an 8-bit scale for 64 weights and of a 32-bit one for 256 scales."""
_CUDA_CONTEXT = 600 * 2**20
_LOGITS_TILE = 4096 * 32768
"""Values that TRL's fused output head holds at once (`trl/kernels/chunked_logprob.py`)."""


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
    vocabulary: int


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
    head = built.get_output_embeddings()
    linear = tuple(
        (name, m.in_features, m.out_features)
        for name, m in built.named_modules()
        if isinstance(m, torch.nn.Linear) and m is not head
    )
    in_linear = sum(i * o for _, i, o in linear)
    text = config.get_text_config()
    return Shapes(
        linear=linear,
        other_parameters=sum(p.numel() for p in built.parameters()) - in_linear,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
    )


def estimate(model: Shapes, config: RunConfig) -> Memory:
    """Memory of one training step of `config`."""
    width = _BYTES[config.model.dtype]
    in_linear = sum(i * o for _, i, o in model.linear)
    adapted = [layer for layer in model.linear if _is_target(layer[0], config)]
    adapter = sum(config.lora.r * (i + o) for _, i, o in adapted)
    tokens = config.training.per_device_train_batch_size * config.training.max_length
    kept = 12 * model.hidden + 3.6 * model.intermediate
    if config.lora.lora_dropout:
        # Each adapted layer keeps its own dropped-out input, where otherwise several share one.
        kept += sum(i for _, i, _ in adapted) / model.layers
    a_layer = tokens * kept * width
    if config.training.activation_checkpointing:
        activations = model.layers * tokens * model.hidden * width + a_layer
    else:
        activations = model.layers * a_layer
    mask = config.training.per_device_train_batch_size * config.training.max_length**2 * width
    largest = max((i * o for _, i, o in model.linear), default=0)
    parts = {
        "base model": in_linear * (_NF4_BYTES if config.quantization else width) + model.other_parameters * width,
        "adapter and its gradient": adapter * 8.0,
        "optimiser": adapter * (2.0 if "8bit" in config.training.optim else 8.0),
        "activations": activations,
        "attention mask": float(mask),
        "output head": min(_LOGITS_TILE, tokens * model.vocabulary) * 4.0,
        "a layer, dequantised": largest * 2.0 if config.quantization else 0.0,
        "CUDA itself": float(_CUDA_CONTEXT) if config.device == "cuda" else 0.0,
    }
    return Memory({k: v for k, v in parts.items() if v}, adapter, in_linear + model.other_parameters)


def _is_target(name: str, config: RunConfig) -> bool:
    targets = config.lora.target_modules
    return targets == "all-linear" or any(f".{name}".endswith(f".{target}") for target in targets)
