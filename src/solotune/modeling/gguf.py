"""A GGUF file into a plain model folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from solotune.console import safe
from solotune.errors import ModelError


def convert(gguf: Path, folder: Path) -> None:
    """Writes `gguf` as bfloat16 safetensors with config, tokenizer and chat template.

    The weights keep the loss of the file's own quantisation: what a Q4 file holds is not the released model.

    Raises:
        ModelError: transformers can't read this architecture from GGUF.
    """
    where = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    except (ValueError, OSError, NotImplementedError) as error:
        raise ModelError(f"{gguf} can't be read: {safe(str(error), 400)}") from error
    # The file's own name for the model would stand for a path in the saved config.
    model.config._name_or_path = ""
    # GGUF knows no such limit, and transformers then takes 1e30 for "no limit".
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        _drop_places(folder / name)


def _drop_places(path: Path) -> None:
    """Removes what only says where the conversion ran."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for key in ("_model_name_or_path", "_name_or_path", "local_files_only", "is_local", "gguf_file"):
        values.pop(key, None)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
