"""Random models of every family that the fast step is for, with an adapter, and packs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bitsandbytes as bnb
import peft
import torch
import transformers

from solotune.modeling.base_model import keep_cpu_gradients
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.packing import collate_fixed, join
from solotune.modeling.step import varlen_attention

VOCABULARY = 160
LAYERS = 3
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gemma": (transformers.GemmaConfig, {"head_dim": 16}),
    "llama": (transformers.LlamaConfig, {}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {"head_dim": 16}),
    "smollm3": (transformers.SmolLM3Config, {"no_rope_layer_interval": 2}),
}
WINDOW = 5
WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    "smollm3": {"use_sliding_window": True, "sliding_window": WINDOW},
}
"""What makes some or all layers of a family see few positions only."""


def base(family: str = "llama", *, attention: str = "sdpa", **more: Any) -> Any:
    """Three layers of 64 features, four heads, two of keys and values, in float32."""
    torch.manual_seed(0)
    kind, special = CONFIGS[family]
    common = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = kind(**{**common, **special, **more})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they begin as zeros, which would hide that one is forgotten
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def adapted(
    model: Any, *, bits: int = 16, dropout: float = 0.0, compute_dtype: Any = torch.float32, **more: Any
) -> Any:
    """With a LoRA adapter that isn't zero, in training mode; `bits=4` quantises the linear layers as `train` does."""
    if bits == 4:
        quantise(model, compute_dtype)
    given = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": dropout, **more}
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **given))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.device) * 0.1
    return model.train()


def quantise(model: Any, compute_dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
    """Puts the linear layers, but not the head, into 4 bits."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, torch.nn.Linear) or name == "lm_head":
                continue
            four = bnb.nn.Linear4bit(
                child.in_features,
                child.out_features,
                child.bias is not None,
                compute_dtype=compute_dtype,
                quant_type="nf4",
            )
            four.weight = bnb.nn.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", module=four)
            four.bias = child.bias
            setattr(parent, name, four.to(device))
    model.is_loaded_in_4bit = True
    keep_cpu_gradients(model)


def documents(count: int = 5, seed: int = 0) -> list[Encoded]:
    """Of 5 to 19 tokens; the first two of each have no label."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length in torch.randint(5, 20, (count,), generator=generator).tolist():
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        made.append(Encoded(ids, [IGNORE] * 2 + ids[2:]))
    return made


def packed(rows: Sequence[Encoded], tokens: int = 96, most_rows: int = 6, pad_id: int = 0) -> dict[str, Any]:
    """As the trainer gets them."""
    sequence = {**join(rows), "rows": list(range(len(rows)))}
    return collate_fixed([sequence], tokens=tokens, most_rows=most_rows, pad_id=pad_id)


def labels_in(rows: Sequence[Encoded]) -> int:
    return sum(label != IGNORE for row in rows for label in row.labels[1:])


def loss_alone(model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
    """Mean loss by upstream's way, a row at a time."""
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
        targets = torch.tensor(row.labels[1:])
        total = total + torch.nn.functional.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORE)
    return total / labels_in(rows)


def arguments(pack: dict[str, Any]) -> dict[str, Any]:
    """A pack as a forward pass with our attention takes it."""
    return {
        "input_ids": pack["input_ids"],
        "position_ids": pack["position_ids"],
        "use_cache": False,
        "pack_ends": pack["pack_ends"],
        "pack_extent": torch.tensor(pack["pack_extent"]),
    }


def with_our_attention(model: Any) -> Any:
    varlen_attention.register()
    model.set_attn_implementation(varlen_attention.NAME)
    return model


def passed(model: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of a forward pass, and the gradients of some loss."""
    model.zero_grad()
    logits = model(use_cache=False, **{k: v for k, v in inputs.items() if k != "use_cache"}).logits
    targets = (inputs["input_ids"].flatten() + 1) % VOCABULARY
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets).backward()
    return logits.detach(), gradients(model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert found
    return found


def assert_close(
    found: tuple[torch.Tensor, dict[str, torch.Tensor]],
    wanted: tuple[torch.Tensor, dict[str, torch.Tensor]],
    tolerance: float = 1e-5,
) -> None:
    """Logits or loss, and every gradient."""
    torch.testing.assert_close(found[0], wanted[0], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found[1], wanted[1], atol=tolerance, rtol=tolerance)
