"""Merges that are broken on purpose, each in one way: the proof says which."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import make_config
from tests.modeling.merging import adapted, saved
from transformers import AutoModelForCausalLM

from solotune.artifacts.files import sha256_file
from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.merge import write_merged
from solotune.modeling.merge_proof import Proof, check, read_changes

UP = "model.layers.1.mlp.up_proj.weight"


@dataclass(frozen=True)
class Made:
    """A merge, and what it was made from."""

    base: ModelDir
    config: RunConfig
    adapter: Path
    merged: Path
    dtype: str

    def weights(self, *, dequantised: bool) -> BaseWeights:
        return BaseWeights(self.base, self.config, dequantised=dequantised)

    def faults(self, **given: Any) -> list[str]:
        """What is wrong with the folder as it lies there."""
        return self.proof(**given).faults

    def proof(
        self, adapter: Path | None = None, base: ModelDir | None = None, dequantised: bool | None = None
    ) -> Proof:
        on = self.config.quantization is not None if dequantised is None else dequantised
        weights = BaseWeights(base or self.base, self.config, dequantised=on)
        other = BaseWeights(base or self.base, self.config, dequantised=not on) if self.config.quantization else None
        template = sha256_file(self.adapter / "chat_template.jinja")
        return check(self.merged, weights, adapter or self.adapter, self.dtype, template, other=other)

    def change(self, name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Rewrites one stored tensor."""
        file = self.merged / "model.safetensors"
        tensors = load_file(file)
        tensors[name] = to(tensors[name].float()).to(tensors[name].dtype)
        save_file(tensors, file, metadata={"format": "pt"})


def make(base: ModelDir, folder: Path, quantization: dict[str, object] | None, dtype: str, scale: float = 1.0) -> Made:
    config = make_config(quantization=quantization, lora={"r": 4, "lora_alpha": 8})
    model = adapted(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data *= scale
    adapter = saved(model, base, config, folder / "adapter")
    merged = folder / "merged"
    merged.mkdir()
    made = Made(base, config, adapter, merged, dtype)
    write_merged(made.weights(dequantised=quantization is not None), adapter, merged, dtype)
    return made


@pytest.fixture
def made(tiny_model: Path, tmp_path: Path) -> Made:
    """A QLoRA merge whose update is of the size that a short training gives: below a hundredth of the weights."""
    return make(ModelDir(tiny_model), tmp_path, {}, "bfloat16", scale=1e-3)


@pytest.fixture
def another_base(tiny_model: Path, tmp_path: Path) -> ModelDir:
    folder = tmp_path / "another-base"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(77)
    AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(folder).config).bfloat16().save_pretrained(
        folder
    )
    return ModelDir(folder)


@pytest.mark.parametrize("quantization", [None, {}])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("bfloat16", 1e-3), ("bfloat16", 1.0), ("float16", 1e-3), ("float32", 1e-3)]
)
def test_a_right_merge_has_no_fault(
    tiny_model: Path, tmp_path: Path, quantization: dict[str, object] | None, dtype: str, scale: float
) -> None:
    assert make(ModelDir(tiny_model), tmp_path, quantization, dtype, scale).faults() == []


def test_a_skipped_layer_is_named(made: Made) -> None:
    shard = made.base.weight_files()[0]
    own = made.weights(dequantised=True).read(shard, UP)
    made.change(UP, lambda _: own.float())
    assert made.faults() == [f"the adapter isn't in {UP}: there is the base's own weight"]


def test_a_layer_that_was_merged_twice_is_named(made: Made) -> None:
    change = read_changes(made.adapter)[UP]
    own = made.weights(dequantised=True).read(made.base.weight_files()[0], UP).float()
    made.change(UP, lambda _: own + 2 * change.scale * (change.b @ change.a))
    assert made.faults() == [f"the adapter is twice in {UP}"]


def test_a_layer_that_was_merged_again_on_top_is_named(made: Made) -> None:
    change = read_changes(made.adapter)[UP]
    made.change(UP, lambda stored: stored + change.scale * (change.b @ change.a))
    (fault,) = made.faults()
    assert UP in fault


def test_one_weight_that_differs_by_one_step_is_found(made: Made) -> None:
    def nudge(stored: torch.Tensor) -> torch.Tensor:
        bits = stored.bfloat16()
        bits[3, 5] = bits[3, 5].view(torch.int16).add(1).view(torch.bfloat16)
        return bits

    made.change(UP, nudge)
    assert made.faults() == [f"{UP}: neither the base's weight nor base + adapter"]


def test_another_template_is_named(made: Made) -> None:
    template = made.merged / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert made.faults() == ["chat_template.jinja isn't the one that the run was trained with"]


def test_a_swapped_base_is_named(made: Made, another_base: ModelDir) -> None:
    (fault,) = made.faults(base=another_base)
    assert "another base model is under it" in fault
    assert "lm_head.weight" in fault


def test_the_other_merge_base_is_named(made: Made) -> None:
    (fault,) = made.faults(dequantised=False)
    assert "the adapter is on the dequantised weights instead of the original ones: " in fault
    assert "and 11 more" in fault


def test_a_truncated_shard_is_named(made: Made) -> None:
    file = made.merged / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (fault,) = made.faults()
    assert fault.startswith("model.safetensors is cut or no safetensors file: ")


def test_a_missing_and_an_added_shard_are_named(made: Made) -> None:
    (made.merged / "model.safetensors").rename(made.merged / "more.safetensors")
    assert made.faults() == ["model.safetensors is missing", "more.safetensors isn't of the base model's files"]


def test_the_adapter_of_another_run_is_named(made: Made, tmp_path: Path) -> None:
    other = saved(adapted(made.base, made.config, seed=4), made.base, made.config, tmp_path / "other")
    assert made.faults(adapter=other) == [
        "another adapter is in it: none of the 14 adapted layers is base + this adapter"
    ]


def test_an_adapter_that_rounding_took_is_told(tiny_model: Path, tmp_path: Path) -> None:
    made = make(ModelDir(tiny_model), tmp_path, {}, "bfloat16", scale=1e-9)
    assert made.faults() == ["it is nearly the base model: 8% of what the adapter adds is left in bfloat16"]


def test_a_layer_whose_update_rounding_took_shows_beside_all_the_others(made: Made) -> None:
    """One layer's update is a millionth of the others': its loss moves the share over the whole model by nothing."""
    name = UP.removesuffix(".weight")
    file = made.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[f"base_model.model.{name}.lora_B.weight"] *= 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    shutil.rmtree(made.merged)
    made.merged.mkdir()
    write_merged(made.weights(dequantised=True), made.adapter, made.merged, made.dtype)
    proof = made.proof()
    assert proof.faults == []
    assert proof.update_kept > 0.9
    assert proof.worst_layer == name
    assert proof.worst_kept < 0.5


def test_an_adapter_that_adds_nothing_is_told(tiny_model: Path, tmp_path: Path) -> None:
    made = make(ModelDir(tiny_model), tmp_path, {}, "bfloat16", scale=0)
    assert made.faults() == ["it is the base model: the adapter adds nothing"]


def test_a_second_chat_template_is_named(made: Made) -> None:
    (made.merged / "chat_template.json").write_text('{"chat_template": "another"}')
    assert made.faults() == ["chat_template.json would be taken for the chat template instead of chat_template.jinja"]


def test_missing_added_and_reshaped_tensors_are_named(made: Made) -> None:
    file = made.merged / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    tensors["more"] = torch.zeros(1)
    tensors[UP] = tensors[UP].T.contiguous()
    save_file(tensors, file)
    (fault,) = made.faults()
    assert fault == (
        f"model.safetensors: {UP}, model.norm.weight, more: missing, added, or of another shape or type than the base's"
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json"])
def test_another_tokenizer_or_config_is_named(made: Made, name: str) -> None:
    file = made.merged / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"more": 1}))
    assert made.faults() == [f"{name} isn't what the base model's makes it"]


def test_a_change_to_a_layer_that_the_base_lacks_is_told(made: Made, tmp_path: Path) -> None:
    file = made.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    more = {
        name.replace("layers.1.", "layers.7."): tensor.clone()
        for name, tensor in tensors.items()
        if "layers.1." in name
    }
    save_file(tensors | more, file)
    (fault,) = made.faults()
    assert fault.startswith("no weights for what the adapter changes: model.layers.7.")
