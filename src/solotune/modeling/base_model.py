"""The frozen base model, as trained on, measured and merged: one way to load it for all stages."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, PreTrainedModel

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import QuantizationConfig, RunConfig
from solotune.errors import ModelError

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def load_base_model(model: ModelDir, config: RunConfig) -> PreTrainedModel:
    """Loads safetensors onto the config's device, quantised when the config says so.

    Raises:
        ModelError: it isn't a causal language model that transformers knows, or its files can't be read.
    """
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            model.path,
            dtype=DTYPES[config.model.dtype],
            quantization_config=bits_and_bytes(config.quantization),
            attn_implementation=config.model.attn_implementation,
            device_map={"": 0 if config.device == "cuda" else "cpu"},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise ModelError(f"the base model in {model.path} can't be loaded: {error}") from error
    keep_cpu_gradients(loaded)
    _drop_generation_settings(loaded)
    return loaded


def load_plain_model(folder: str, dtype: str, device: str, attn_implementation: str) -> PreTrainedModel:
    """Loads an unquantised model from a folder of safetensors, such as a merged one."""
    loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=DTYPES[dtype],
        attn_implementation=attn_implementation,
        device_map={"": 0 if device == "cuda" else "cpu"},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    _drop_generation_settings(loaded)
    return loaded


def load_merged_model(folder: Path, config: RunConfig, dtype: str | None = None) -> PreTrainedModel:
    """Loads a merged model without quantisation: in the type it is stored in, if no other is given."""
    stored = json.loads(ModelDir(folder).config.read_text(encoding="utf-8"))["dtype"]
    return load_plain_model(str(folder), dtype or stored, config.device, config.model.attn_implementation)


def autocast(config: RunConfig) -> AbstractContextManager[None]:
    """The precision that training computes in, for every other forward pass too."""
    enabled = config.model.dtype != "float32"
    context: AbstractContextManager[None] = torch.autocast(
        config.device, dtype=DTYPES[config.model.dtype] if enabled else None, enabled=enabled
    )
    return context


def computes_in(model: PreTrainedModel, config: RunConfig) -> str:
    """Type and device, such as `bfloat16 on cuda`: with others the last digits of its figures differ."""
    dtype: str = config.model.dtype
    if dtype == "float32":  # nothing is cast: in what the weights have
        dtype = str(model.dtype).removeprefix("torch.")
    return f"{dtype} on {config.device}"


def keep_cpu_gradients(model: torch.nn.Module) -> None:
    """Stops bitsandbytes 0.50 from repacking 4-bit weights for inference on AVX512-BF16 processors.

    A repacked layer has no gradient to its input (`bitsandbytes/autograd/_functions.py`, `matmul_4bit`), and one
    evaluation in the middle of training repacks them all: training would go on with gradients of cosine 0.12.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _drop_generation_settings(model: PreTrainedModel) -> None:
    # transformers fills what a call leaves open from here: a repetition penalty that the base model came with would
    # enter the measurement unseen.
    model.generation_config = GenerationConfig()


def bits_and_bytes(quantization: QuantizationConfig | None) -> BitsAndBytesConfig | None:
    """Ours as transformers' own; None for none."""
    if quantization is None:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=quantization.load_in_4bit,
        bnb_4bit_quant_type=quantization.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=quantization.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=DTYPES[quantization.bnb_4bit_compute_dtype],
    )
