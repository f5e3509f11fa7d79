"""The adapter: made, kept in float32, saved, loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import torch
from transformers import PreTrainedModel

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import LoraConfig, ModelConfig
from solotune.errors import ModelError
from solotune.modeling.chat import ChatEncoder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def peft_config(lora: LoraConfig, model: ModelConfig) -> peft.LoraConfig:
    """Ours as PEFT's; names the base model by its public name, not by the folder that it was loaded from."""
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path,
        revision=model.revision,
    )


def check_targets(model: PreTrainedModel, lora: LoraConfig) -> None:
    """Raises ModelError when a module that the adapter should go to isn't a linear layer of this model."""
    if isinstance(lora.target_modules, str):
        return
    head = model.get_output_embeddings()
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    unknown = sorted(t for t in lora.target_modules if not any(f".{name}".endswith(f".{t}") for name in linear))
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ModelError(
            f"lora.target_modules: this model has no linear layer named {', '.join(unknown)} (the output head is none)",
            f"It has {', '.join(known)}",
        )


def keep_float32(model: torch.nn.Module) -> None:
    """Casts trainable weights to float32.

    TRL casts the adapters of a quantised model to bfloat16 and resuming loads them in float32: the run would change its
    precision in the middle. Small updates are lost in bfloat16, too.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def save_adapter(model: peft.PeftModel, folder: Path, config: ModelConfig) -> None:
    """Writes adapter_model.safetensors and an adapter_config.json whose bytes don't vary from run to run."""
    # "auto" asks the hub whether the vocabulary was resized; it never is.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["base_model_name_or_path"] = config.name_or_path
    written["revision"] = config.revision
    if isinstance(written.get("target_modules"), list):
        written["target_modules"] = sorted(written["target_modules"])
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def add_tokenizer(folder: Path, base: ModelDir, encoder: ChatEncoder) -> None:
    """Puts the tokenizer and the exact template that was trained with beside the weights."""
    for name in TOKENIZER_FILES:
        if (base.path / name).is_file():
            shutil.copyfile(base.path / name, folder / name)
    (folder / base.chat_template.name).write_text(encoder.template.source, encoding="utf-8")


def tokenizer_bytes(base: ModelDir) -> int:
    """Of what `add_tokenizer` copies."""
    return sum((base.path / name).stat().st_size for name in TOKENIZER_FILES if (base.path / name).is_file())


def load_adapter(model: PreTrainedModel, folder: Path) -> peft.PeftModel:
    """Puts a saved adapter onto a base model, for inference."""
    loaded = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=False, local_files_only=True)
    loaded.eval()
    return loaded
