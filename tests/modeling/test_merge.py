from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from tests.helpers import make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.errors import ProofError
from solotune.modeling.base_model import load_base_model, load_plain_model
from solotune.modeling.lora import peft_config
from solotune.modeling.merge import tensor_count, write_merged

IDS = torch.arange(3, 60)[None]


def adapted(tiny_model: Path, config: RunConfig) -> peft.PeftModel:
    """The tiny model with an adapter that changes it a lot."""
    model = peft.get_peft_model(load_base_model(ModelDir(tiny_model), config), peft_config(config.lora, config.model))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter, dtype=torch.float32) * 0.3
    return model.eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=IDS, use_cache=False).logits).float()


@pytest.mark.parametrize("quantization", [None, {}, {"bnb_4bit_use_double_quant": False}])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_the_merged_model_read_back_behaves_like_the_adapter(
    tiny_model: Path, tmp_path: Path, quantization: dict[str, object] | None, targets: object
) -> None:
    config = make_config(
        quantization=quantization,
        model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"},
        lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": targets},
    )
    if quantization is not None:
        config = config.model_copy(
            update={"quantization": config.quantization.model_copy(update={"bnb_4bit_compute_dtype": "float32"})}  # type: ignore[union-attr]
        )
    model = adapted(tiny_model, config)
    base = ModelDir(tiny_model)
    changed = write_merged(model, base, tmp_path, "float32")
    assert changed == (14 if targets == "all-linear" else 4)
    expected, found = logits(model), logits(load_plain_model(str(tmp_path), "float32", "cpu", "sdpa"))
    with model.disable_adapter():
        distance_to_base = (logits(model) - found).abs().max()
    assert (expected - found).abs().max() < 1e-3
    assert distance_to_base > 0.1


def test_rank_stabilised_scale_is_merged_too(tiny_model: Path, tmp_path: Path) -> None:
    config = make_config(
        model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"},
        lora={"r": 4, "lora_alpha": 8, "use_rslora": True},
    )
    model = adapted(tiny_model, config)
    write_merged(model, ModelDir(tiny_model), tmp_path, "float32")
    found = logits(load_plain_model(str(tmp_path), "float32", "cpu", "sdpa"))
    assert (logits(model) - found).abs().max() < 1e-3


def test_a_partial_merge_is_refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from solotune.modeling import merge

    model = adapted(tiny_model, make_config())
    real = merge._layers(model)
    monkeypatch.setattr(merge, "_layers", lambda m: {**real, "model.layers.9.mlp.up_proj": next(iter(real.values()))})
    with pytest.raises(ProofError, match=r"1 adapted layers have no weights .*layers\.9"):
        write_merged(model, ModelDir(tiny_model), tmp_path, "bfloat16")


def test_tensors_are_counted_from_the_headers(tiny_model: Path) -> None:
    assert tensor_count(ModelDir(tiny_model)) == 2 * 9 + 3
