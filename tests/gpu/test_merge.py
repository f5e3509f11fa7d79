"""On a GPU bitsandbytes quantises with other kernels: a merge must take what training took."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch
from tests.helpers import make_config
from tests.modeling.merging import adapted, saved

from solotune.artifacts.files import sha256_file
from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.base_model import load_base_model
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.merge import write_merged
from solotune.modeling.merge_proof import check

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("settings", [{}, {"bnb_4bit_use_double_quant": False}])
def test_dequantised_weights_are_to_the_bit_what_the_model_on_the_gpu_multiplies_with(
    tiny_model: Path, settings: dict[str, object]
) -> None:
    config, base = make_config(device="cuda", quantization=settings), ModelDir(tiny_model)
    loaded = load_base_model(base, config)
    weights = BaseWeights(base, config, dequantised=True)
    found = {name: (shard, name) for shard, name in weights.tensors()}
    layers = {n: m.weight for n, m in loaded.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert len(layers) == 14
    for name, layer in layers.items():
        expected = bitsandbytes.functional.dequantize_4bit(layer.data, layer.quant_state)
        assert torch.equal(weights.read(*found[f"{name}.weight"]), expected), name


def test_a_merge_that_was_made_on_a_gpu_is_proven(tiny_model: Path, tmp_path: Path) -> None:
    config, base = make_config(device="cuda", quantization={}), ModelDir(tiny_model)
    adapter = saved(adapted(base, config), base, config, tmp_path / "adapter")
    weights = BaseWeights(base, config, dequantised=True)
    (tmp_path / "merged").mkdir()
    assert write_merged(weights, adapter, tmp_path / "merged", "bfloat16") == 14
    template = sha256_file(adapter / "chat_template.jinja")
    assert check(tmp_path / "merged", weights, adapter, "bfloat16", template).faults == []
