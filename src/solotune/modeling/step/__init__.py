"""The training step on packs of one shape: LoRA layers in one operation each, attention by the packs' boundaries, compiled
decoder layers, output head and loss in one.

    step = FixedStep(peft_model)               # once, after the model was loaded and the adapter added
    loss = step.loss(pack, num_items)          # in the trainer's compute_loss; backward() as ever
    step.off()                                 # before anything of another shape; the next loss() switches on again

A pack always has the same number of tokens (`packing.collate_fixed`), so nothing is ever compiled twice.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.modeling.step import fused_lora, head, layers, varlen_attention

FAMILIES = ("gemma", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Values of `model_type` that the tests run: their layers are compiled whole and their attention has no extras."""


def why_not(config: RunConfig, base: ModelDir) -> str:
    """Why upstream's way has to do for this run; empty where packs of one shape work."""
    found = json.loads(base.config.read_text(encoding="utf-8"))
    family = found.get("model_type")
    reasons = {
        "it is for GPUs": config.device != "cuda",
        "training.packing is off": not config.training.packing,
        "model.dtype isn't bfloat16": config.model.dtype != "bfloat16",
        "model.attn_implementation isn't sdpa": config.model.attn_implementation != "sdpa",
        f"layers of {family} models haven't been tried with it": family not in FAMILIES,
        "this model drops out in its attention": bool(found.get("attention_dropout")),
    }
    return next((why for why, applies in reasons.items() if applies), "")


class FixedStep:
    """What was changed about a model, to switch it on and off.

    Args:
        model: a PeftModel on a frozen decoder of transformers, on its device.
        recomputed: how many layers, from the first, keep only their input.
        compiled: whether layers are compiled; without, they keep twice as much and launch their kernels one by one.
    """

    def __init__(self, model: Any, *, recomputed: int = 0, compiled: bool = True) -> None:
        varlen_attention.register()
        self._model, self._recomputed = model, recomputed
        self._causal = model.get_base_model()
        self._attention = self._causal.config._attn_implementation
        self.fused = fused_lora.fuse(model)
        self._layers = layers.CompiledLayers(model) if compiled else None
        self._random = any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in model.modules())
        self._hook: Any = None
        assert head.supported(self._causal)

    def loss(self, pack: dict[str, Any], num_items: torch.Tensor | int) -> torch.Tensor:
        """Negative log-likelihood of the pack's labels over `num_items`, those of the whole accumulated batch.

        Args:
            pack: what `packing.collate_fixed` gives, on the model's device.
        """
        self.on()
        hidden = self._causal.base_model(
            input_ids=pack["input_ids"],
            position_ids=pack["position_ids"],
            use_cache=False,
            pack_ends=pack["pack_ends"],
            pack_extent=torch.tensor(pack["pack_extent"]),  # on the processor, and it must stay there
        ).last_hidden_state
        weight = self._causal.get_output_embeddings().weight
        return head.summed_loss(hidden[0], weight, pack["targets"], pack["labelled"]) / num_items

    def on(self) -> None:
        """For packs."""
        if self._hook is not None:
            return
        self._causal.set_attn_implementation(varlen_attention.NAME)
        self._hook = layers.inputs_need_gradient(self._causal)
        layers.recompute(self._model, self._recomputed, random=self._random)
        if self._layers:
            self._layers.on()

    def off(self) -> None:
        """For padded batches and generation; the LoRA layers stay fused, they serve any shape."""
        if self._hook is None:
            return
        self._causal.set_attn_implementation(self._attention)
        self._hook.remove()
        self._hook = None
        layers.recompute(self._model, 0)
        if self._layers:
            self._layers.off()
