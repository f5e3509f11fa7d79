"""Adapter into base model, tensor by tensor: no model is loaded.

A QLoRA adapter is added to the *dequantised* weights that it was trained on, or to the original ones, in float32, and
stored in 16 bits. PEFT's `merge_and_unload` on 4-bit layers quantises the sum again (`peft/tuners/lora/bnb.py`), and a
short run's update, smaller than half a step of the 4-bit grid, rounds away: the merged model is the base model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from solotune.artifacts.model_dir import ModelDir
from solotune.console import safe
from solotune.errors import ModelError, ProofError
from solotune.modeling import shards
from solotune.modeling.base_model import DTYPES
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.shards import Place

_ADAPTER = "default"
INDEX = "model.safetensors.index.json"
LEGACY_TEMPLATE = "chat_template.json"
"""Of older bases with a processor: transformers and llama.cpp's converter read it where chat_template.jinja should
count (`transformers/processing_utils.py`, `gguf/vocab.py`)."""


def write_merged(
    weights: BaseWeights,
    adapter: Path,
    folder: Path,
    dtype: str,
    on_tensors: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes base + adapter as plain safetensors, with the base's own file layout, config and tokenizer.

    Args:
        weights: what the adapter is added to.
        adapter: its folder, with the chat template that it was trained with.
        folder: an empty folder.
        dtype: of the stored weights.
        on_tensors: called with the number of tensors done.

    Returns:
        How many tensors the adapter changed.

    Raises:
        ModelError: the adapter holds more than LoRA of linear layers.
        ProofError: a layer that the adapter trained is not among the base's files.
    """
    layers = _adapted(weights, adapter)
    merged: set[str] = set()
    for shard in weights.base.weight_files():
        found = shards.places(shard)
        layout = {name: stored_as(place, dtype) for name, place in found.items()}
        with shards.writing(folder / shard.name, layout) as add:
            for name, place in found.items():
                weight = weights.read(shard, name)
                if name in layers:
                    weight = weight.to(weights.device, torch.float32) + layers[name].get_delta_weight(_ADAPTER)
                    merged.add(name)
                add(name, weight.to(DTYPES[dtype]) if place.is_float else weight)
                on_tensors(1)
    unmerged = sorted(layers.keys() - merged)
    if unmerged:
        raise ProofError(
            f"{len(unmerged)} adapted layers have no weights of their own in {weights.base.path}: "
            f"{', '.join(unmerged[:3])}",
            "The merge would be partial; serve the adapter instead",
        )
    write_config(weights.base, adapter, folder, dtype)
    return len(merged)


def tensor_count(base: ModelDir) -> int:
    """Tensors in the base model's files."""
    return sum(len(shards.places(shard)) for shard in base.weight_files())


def merged_bytes(base: ModelDir, dtype: str) -> int:
    """Size of a merged model's weights on the disk."""
    found = [place for shard in base.weight_files() for place in shards.places(shard).values()]
    return sum(stored_as(place, dtype).bytes for place in found)


def stored_as(place: Place, dtype: str) -> Place:
    """A tensor of the base as the merged model stores it."""
    return Place(shards.NAMES[DTYPES[dtype]], place.shape) if place.is_float else place


def write_config(base: ModelDir, adapter: Path, folder: Path, dtype: str) -> None:
    """Everything beside the weights: the base's files, the run's chat template."""
    for file in copied(base):
        shutil.copyfile(file, folder / file.name)
    for name, text in rewritten(base, dtype).items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copyfile(adapter / base.chat_template.name, folder / base.chat_template.name)


def copied(base: ModelDir) -> list[Path]:
    """The base's files that a merged model has byte for byte: tokenizer, generation settings, licence."""
    ours = {base.manifest_path.name, base.chat_template.name, LEGACY_TEMPLATE, *rewritten(base, "bfloat16")}
    return [
        file
        for file in sorted(base.path.iterdir())
        if (file.suffix in (".json", ".jinja", ".model") or file.name.startswith("LICENSE")) and file.name not in ours
    ]


def rewritten(base: ModelDir, dtype: str) -> dict[str, str]:
    """The base's files that a merged model has with a change: name -> text."""
    config = json.loads(base.config.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    files: dict[str, Any] = {base.config.name: config}
    index = base.path / INDEX
    if index.is_file():
        size = {"metadata": {"total_size": merged_bytes(base, dtype)}}
        files[INDEX] = json.loads(index.read_text(encoding="utf-8")) | size
    for file in (base.tokenizer_config, base.path / "processor_config.json"):
        settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if settings.pop("chat_template", None) is not None:  # some runtimes read this one, and it isn't the run's
            files[file.name] = settings
    return {name: json.dumps(value, indent=2, ensure_ascii=False) + "\n" for name, value in files.items()}


def _adapted(weights: BaseWeights, adapter: Path) -> dict[str, LoraLayer]:
    """PEFT's own layers, with the adapter's matrices on the device: name of the weight in the base's files -> layer."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    config = peft.PeftConfig.from_pretrained(str(adapter))
    model = peft.get_peft_model(weights.skeleton(), config, low_cpu_mem_usage=True)
    layers = {}
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        for matrix in ("lora_A", "lora_B"):
            value = tensors.pop(f"base_model.model.{name}.{matrix}.weight", None)
            if value is None:
                raise ModelError(f"{adapter} holds no {matrix} for {name}", "It isn't whole, or of another base model")
            value = value.to(weights.device, torch.float32)
            getattr(module, matrix)[_ADAPTER].weight = torch.nn.Parameter(value, requires_grad=False)
        layers[f"{name}.weight"] = module
    if tensors:
        raise ModelError(
            f"{adapter} holds what can't be merged: {safe(', '.join(sorted(tensors)[:3]))}", "Serve the adapter instead"
        )
    return layers
