"""An adapter that changes the tiny model a lot, as training saves it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import torch

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.modeling.base_model import load_base_model
from solotune.modeling.lora import peft_config, save_adapter

IDS = torch.arange(3, 60)[None]


def adapted(base: ModelDir, config: RunConfig, seed: int = 3, **patterns: Any) -> peft.PeftModel:
    """The base model with an adapter; `patterns` are further settings of peft.LoraConfig."""
    lora = peft_config(config.lora, config.model)
    for name, value in patterns.items():
        setattr(lora, name, value)
    model = peft.get_peft_model(load_base_model(base, config), lora)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter, dtype=torch.float32) * 0.3
    return model.eval()


def saved(model: peft.PeftModel, base: ModelDir, config: RunConfig, folder: Path) -> Path:
    """The adapter's folder, with the chat template."""
    save_adapter(model, folder, config.model)
    shutil.copyfile(base.chat_template, folder / base.chat_template.name)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=IDS, use_cache=False).logits).float()
