"""Adapter into base model, shard by shard: no more memory than the model that was trained and one shard.

A QLoRA adapter is added to the *dequantised* weights that it was trained on, in float32, and stored in 16 bits. PEFT's
`merge_and_unload` on 4-bit layers quantises the sum again (`peft/tuners/lora/bnb.py`), and a short run's update,
smaller than half a step of the 4-bit grid, rounds away: the merged model is the base model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file

from solotune.artifacts.model_dir import ModelDir
from solotune.errors import ProofError
from solotune.modeling.base_model import DTYPES

_ADAPTER = "default"


def write_merged(
    model: peft.PeftModel,
    base: ModelDir,
    folder: Path,
    dtype: str,
    on_tensors: Callable[[int], None] = lambda _: None,
) -> int:
    """Writes base + adapter as plain safetensors, with the base's own file layout and config.

    Args:
        model: the base model with its adapter, loaded as in training.
        base: where its files lie.
        folder: an empty folder.
        dtype: of the stored weights.
        on_tensors: called with the number of tensors done, after each shard.

    Returns:
        How many tensors the adapter changed.

    Raises:
        ProofError: a layer that the adapter trained is not among the base's files.
    """
    layers = _layers(model)
    merged: set[str] = set()
    for shard in base.weight_files():
        tensors: dict[str, torch.Tensor] = {}
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                module = layers.get(name.removesuffix(".weight"))
                if module is None or not name.endswith(".weight"):
                    tensors[name] = file.get_tensor(name).to(DTYPES[dtype])
                    continue
                weight = _trained_on(module)
                if isinstance(module, LoraLayer):
                    weight += module.get_delta_weight(_ADAPTER).to(weight)
                    merged.add(name.removesuffix(".weight"))
                tensors[name] = weight.to(DTYPES[dtype]).cpu().contiguous()
        save_file(tensors, folder / shard.name, metadata={"format": "pt"})
        on_tensors(len(tensors))
    unmerged = sorted(name for name, module in layers.items() if isinstance(module, LoraLayer) and name not in merged)
    if unmerged:
        raise ProofError(
            f"{len(unmerged)} adapted layers have no weights of their own in {base.path}: {', '.join(unmerged[:3])}",
            "The merge would be partial; serve the adapter instead",
        )
    _copy_config(base, folder, dtype)
    return len(merged)


def tensor_count(base: ModelDir) -> int:
    """Tensors in the base model's files."""
    total = 0
    for shard in base.weight_files():
        with safe_open(shard, framework="pt") as file:
            total += len(file.keys())
    return total


def _layers(model: peft.PeftModel) -> dict[str, Any]:
    """Every adapted or quantised layer, by its name in the base model's files."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        plainly_quantised = isinstance(module, bitsandbytes.nn.Linear4bit) and not name.endswith(".base_layer")
        if plainly_quantised or isinstance(module, LoraLayer):
            found[name] = module
    return found


def _trained_on(module: Any) -> torch.Tensor:
    """(out, in) float32: the weights that the forward pass of training multiplied with."""
    weight = getattr(module, "base_layer", module).weight
    if isinstance(weight, bitsandbytes.nn.Params4bit):
        dense: torch.Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        return dense.float()
    return weight.detach().float().clone()  # type: ignore[no-any-return]


def _copy_config(base: ModelDir, folder: Path, dtype: str) -> None:
    for file in base.path.iterdir():
        if file.suffix in (".json", ".jinja", ".model") and file.name not in ("manifest.json", "config.json"):
            shutil.copyfile(file, folder / file.name)
    config = json.loads(base.config.read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
