"""The training step on packs of one shape: LoRA layers in one operation each, attention by the packs' boundaries,
compiled decoder layers, recorded and replayed, output head and loss in one.

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
from solotune.modeling.step.recorded import RecordedDecoder, can_record, extent_class, rope_type

FAMILIES = ("gemma", "llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Values of `model_type` that the tests run: their layers are compiled whole and their attention has no extras."""


def why_not(config: RunConfig, base: ModelDir) -> str:
    """Why upstream's way has to do for this run; empty where packs of one shape work."""
    found = json.loads(base.config.read_text(encoding="utf-8"))
    family = found.get("model_type")
    head_dim = _head_dim(found)
    quantization = config.quantization
    reasons = {
        "it is for GPUs": config.device != "cuda",
        "training.packing is off": not config.training.packing,
        "model.dtype isn't bfloat16": config.model.dtype != "bfloat16",
        "model.attn_implementation isn't sdpa": config.model.attn_implementation != "sdpa",
        "quantization.bnb_4bit_quant_type isn't nf4": quantization and quantization.bnb_4bit_quant_type != "nf4",
        f"layers of {family} models haven't been tried with it": family not in FAMILIES,
        "this model came quantised": found.get("quantization_config"),
        "this model drops out in its attention": found.get("attention_dropout"),
        "this model scales or caps its logits": any(found.get(key) not in (None, 1) for key in head.CHANGES_LOGITS),
        f"the attention kernel knows no heads of {head_dim}": head_dim and not varlen_attention.fits(head_dim),
        "use_sliding_window and layer_types in this model's config.json contradict": _window_contradicts(found),
    }
    return next((why for why, applies in reasons.items() if applies), "")


def _head_dim(found: dict[str, Any]) -> int | None:
    """Features of an attention head; None where it is left to transformers, whose defaults all fit."""
    hidden, heads = found.get("hidden_size"), found.get("num_attention_heads")
    return found.get("head_dim") or (hidden // heads if hidden and heads else None)


def _window_contradicts(found: dict[str, Any]) -> bool:
    """SmolLM3's mask has a window then of which its attention isn't told (`modeling_smollm3.py`)."""
    sliding = "sliding_attention" in (found.get("layer_types") or ())
    return found.get("model_type") == "smollm3" and sliding and not found.get("use_sliding_window")


class FixedStep:
    """What was changed about a model, to switch it on and off.

    Args:
        model: a PeftModel on a frozen decoder of transformers, on its device.
        recomputed: how many layers, from the first, keep only their input.
        compiled: whether layers are compiled; without, they keep twice as much and launch their kernels one by one.
        replayed: whether the decoder is replayed from CUDA graphs, where it can be.
    """

    def __init__(self, model: Any, *, recomputed: int = 0, compiled: bool = True, replayed: bool = False) -> None:
        varlen_attention.register()
        self._causal = model.get_base_model()
        assert head.supported(self._causal)
        self._attention = self._causal.config._attn_implementation
        fused_lora.fuse(model)
        dropout = max((m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)), default=0.0)
        self._layers = layers.StepLayers(model, recomputed=recomputed, compiled=compiled, random=dropout > 0)
        rope = rope_type(self._causal.config.get_text_config())
        records = replayed and can_record(dropout=dropout, recomputed=recomputed, rope=rope)
        self._recorded = RecordedDecoder(self._hidden, model) if records else None
        self._hook: Any = None

    def loss(self, pack: dict[str, Any], num_items: torch.Tensor | int) -> torch.Tensor:
        """Negative log-likelihood of the pack's labels over `num_items`, those of the whole accumulated batch.

        Args:
            pack: what `packing.collate_fixed` gives, on the model's device.
        """
        self.on()
        decoder = self._recorded if self._recorded and torch.is_grad_enabled() else self._hidden
        ids, ends = pack["input_ids"], pack["pack_ends"]
        extent = extent_class(pack["pack_extent"], len(ends) - 1, ids.shape[1])
        hidden = decoder(ids, pack["position_ids"], ends, extent)
        weight = self._causal.get_output_embeddings().weight
        return head.summed_loss(hidden[0], weight, pack["targets"], pack["labelled"]) / num_items

    def on(self) -> None:
        """For packs."""
        if self._hook is not None:
            return
        self._causal.set_attn_implementation(varlen_attention.NAME)
        self._hook = layers.inputs_need_gradient(self._causal)
        self._layers.on()

    def off(self) -> None:
        """For padded batches and generation; the LoRA layers stay fused, they serve any shape."""
        if self._hook is None:
            return
        self._causal.set_attn_implementation(self._attention)
        self._hook.remove()
        self._hook = None
        self._layers.off()
        if self._recorded:
            self._recorded.release()

    def launch(self) -> bool:
        """From now on nothing is recorded; whether that gives memory back. The bits stay the same."""
        return self._recorded is not None and self._recorded.give_up()

    def _hidden(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, ends: torch.Tensor, extent: tuple[int, int]
    ) -> torch.Tensor:
        hidden: torch.Tensor = self._causal.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            use_cache=False,
            pack_ends=ends,
            pack_extent=torch.tensor(extent),  # on the processor, and it must stay there
        ).last_hidden_state
        return hidden
