"""What several tests build: messages and configs."""

from __future__ import annotations

from dataclasses import dataclass

from solotune.config.schema import RunConfig

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
"""config.json of a model with Llama 3.1 8B's shapes."""


@dataclass(frozen=True)
class Turn:
    """A message."""

    role: str
    content: str


def chat(*contents: str, system: str | None = None) -> list[Turn]:
    """Contents in turn: user, assistant, user …"""
    turns = [Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return ([Turn("system", system)] if system else []) + turns


def make_config(**sections: object) -> RunConfig:
    """A small CPU config; sections override."""
    base: dict[str, object] = {
        "device": "cpu",
        "dataset": {"raw_files": ["x"]},
        "model": {"name_or_path": "somewhere", "source": "folder"},
        "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
        "training": {"max_length": 128, "max_steps": 2, "activation_checkpointing": False, "eval_steps": 0},
    }
    return RunConfig.model_validate(base | sections)
