from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from tests.helpers import make_config
from tests.modeling.merging import adapted, logits, saved
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.errors import ModelError, ProofError
from solotune.modeling import merge, shards
from solotune.modeling.base_model import load_base_model, load_plain_model
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.merge import tensor_count, write_merged

QUANTIZATIONS: list[dict[str, object] | None] = [None, {}, {"bnb_4bit_use_double_quant": False}]


def config_of(quantization: dict[str, object] | None, dtype: str = "float32", **lora: object) -> RunConfig:
    if quantization is not None:
        quantization = {"bnb_4bit_compute_dtype": dtype, **quantization}
    return make_config(
        quantization=quantization,
        model={"name_or_path": "somewhere", "source": "folder", "dtype": dtype},
        lora={"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, **lora},
    )


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_the_merged_model_read_back_behaves_like_the_adapter(
    tiny_model: Path, tmp_path: Path, quantization: dict[str, object] | None, targets: object
) -> None:
    config = config_of(quantization, target_modules=targets)
    base = ModelDir(tiny_model)
    model = adapted(base, config)
    weights = BaseWeights(base, config, dequantised=quantization is not None)
    changed = write_merged(weights, saved(model, base, config, tmp_path / "adapter"), out(tmp_path), "float32")
    assert changed == (14 if targets == "all-linear" else 4)
    expected, found = logits(model), logits(load_plain_model(str(out(tmp_path)), "float32", "cpu", "sdpa"))
    with model.disable_adapter():
        distance_to_base = (logits(model) - found).abs().max()
    assert (expected - found).abs().max() < 1e-3
    assert distance_to_base > 0.1


def out(tmp_path: Path) -> Path:
    (tmp_path / "merged").mkdir(exist_ok=True)
    return tmp_path / "merged"


@pytest.mark.parametrize(
    "settings",
    [{}, {"bnb_4bit_use_double_quant": False}, {"bnb_4bit_quant_type": "fp4"}],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dequantised_weights_are_to_the_bit_what_the_loaded_4_bit_model_multiplies_with(
    tiny_model: Path, settings: dict[str, object], dtype: str
) -> None:
    import bitsandbytes

    config = config_of(settings, dtype)
    base = ModelDir(tiny_model)
    weights = BaseWeights(base, config, dequantised=True)
    loaded = load_base_model(base, config)
    quantised = {n: m.weight for n, m in loaded.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    plain = dict(loaded.named_parameters())
    seen = 0
    for shard, name in weights.tensors():
        layer = quantised.get(name.removesuffix(".weight"))
        if layer is None:
            expected = plain[name]
        else:
            expected = bitsandbytes.functional.dequantize_4bit(layer.data, layer.quant_state)
            seen += 1
        assert torch.equal(weights.read(shard, name), expected), name
        assert weights.read(shard, name).dtype == expected.dtype
    assert seen == len(quantised) == 14


def test_original_weights_are_the_ones_of_the_files(tiny_model: Path) -> None:
    weights = BaseWeights(ModelDir(tiny_model), config_of({}, "bfloat16"), dequantised=False)
    for shard, name in weights.tensors():
        assert torch.equal(weights.read(shard, name), shards.read(shard, name))


def test_rank_stabilised_scale_is_merged_too(tiny_model: Path, tmp_path: Path) -> None:
    config, base = config_of(None, use_rslora=True), ModelDir(tiny_model)
    model = adapted(base, config)
    adapter = saved(model, base, config, tmp_path / "adapter")
    write_merged(BaseWeights(base, config, dequantised=False), adapter, out(tmp_path), "float32")
    found = logits(load_plain_model(str(out(tmp_path)), "float32", "cpu", "sdpa"))
    assert (logits(model) - found).abs().max() < 1e-3


def test_layers_of_other_ranks_are_merged_with_their_own_scale(tiny_model: Path, tmp_path: Path) -> None:
    config, base = config_of(None), ModelDir(tiny_model)
    model = adapted(base, config, rank_pattern={"q_proj": 2}, alpha_pattern={"up_proj": 32})
    adapter = saved(model, base, config, tmp_path / "adapter")
    write_merged(BaseWeights(base, config, dequantised=False), adapter, out(tmp_path), "float32")
    found = logits(load_plain_model(str(out(tmp_path)), "float32", "cpu", "sdpa"))
    assert (logits(model) - found).abs().max() < 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_shards_keep_their_layout_and_tied_embeddings_stay_tied(tiny_model: Path, tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.tie_word_embeddings = tied
    if tied:
        model.tie_weights()
    model.save_pretrained(folder, max_shard_size="60KB")
    for file in tiny_model.iterdir():
        if file.name.startswith(("tokenizer", "chat_template")):
            (folder / file.name).write_bytes(file.read_bytes())
    base, config = ModelDir(folder), config_of({})
    assert len(base.weight_files()) > 2
    trained = adapted(base, config)
    adapter = saved(trained, base, config, tmp_path / "adapter")
    write_merged(BaseWeights(base, config, dequantised=True), adapter, out(tmp_path), "float32")
    merged = out(tmp_path)
    assert [p.name for p in ModelDir(merged).weight_files()] == [p.name for p in base.weight_files()]
    index = json.loads((merged / merge.INDEX).read_text())
    assert index["weight_map"] == json.loads((folder / merge.INDEX).read_text())["weight_map"]
    stored = [place for file in ModelDir(merged).weight_files() for place in shards.places(file).values()]
    assert index["metadata"]["total_size"] == sum(place.bytes for place in stored)
    found = load_plain_model(str(merged), "float32", "cpu", "sdpa")
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == tied
    assert (logits(trained) - logits(found)).abs().max() < 1e-3
    assert not any("lm_head" in name for file in base.weight_files() for name in shards.places(file)) or not tied


def test_a_partial_merge_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    config, base = config_of({}, "bfloat16"), ModelDir(tiny_model)
    adapter = saved(adapted(base, config), base, config, tmp_path / "adapter")
    weights = BaseWeights(base, config, dequantised=True)
    real = merge._adapted(weights, adapter)
    with pytest.MonkeyPatch.context() as patch:
        more = {**real, "model.layers.9.mlp.up_proj.weight": next(iter(real.values()))}
        patch.setattr(merge, "_adapted", lambda *_: more)
        with pytest.raises(ProofError, match=r"1 adapted layers have no weights .*layers\.9"):
            write_merged(weights, adapter, out(tmp_path), "bfloat16")


def test_an_adapter_that_isnt_whole_or_holds_more_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config, base = config_of({}, "bfloat16"), ModelDir(tiny_model)
    adapter = saved(adapted(base, config), base, config, tmp_path / "adapter")
    weights = BaseWeights(base, config, dequantised=True)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    gone = tensors.pop("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight")
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"no lora_B for model\.layers\.0\.mlp\.up_proj"):
        write_merged(weights, adapter, out(tmp_path), "bfloat16")
    tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"] = gone
    tensors["base_model.model.lm_head.weight"] = torch.zeros(2, 2)
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"can't be merged: base_model\.model\.lm_head\.weight"):
        write_merged(weights, adapter, out(tmp_path), "bfloat16")


def test_only_the_runs_template_comes_along(tiny_model: Path, tmp_path: Path) -> None:
    """Of the base's own, some runtimes would read one in tokenizer_config.json, or that of a processor."""
    base, config = ModelDir(tmp_path / "base"), config_of(None)
    base.path.mkdir()
    for file in tiny_model.iterdir():
        (base.path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads(base.tokenizer_config.read_text())
    another = {"chat_template": "another"}
    base.tokenizer_config.write_text(json.dumps(tokenizer | another))
    (base.path / "processor_config.json").write_text(json.dumps({"image_seq_length": 64} | another))
    (base.path / "chat_template.json").write_text(json.dumps(another))
    adapter = saved(adapted(base, config), base, config, tmp_path / "adapter")
    merged = out(tmp_path)
    write_merged(BaseWeights(base, config, dequantised=False), adapter, merged, "float32")
    assert json.loads((merged / "tokenizer_config.json").read_text()) == tokenizer
    assert json.loads((merged / "processor_config.json").read_text()) == {"image_seq_length": 64}
    assert not (merged / "chat_template.json").exists()
    template = (tiny_model / "chat_template.jinja").read_text()
    assert (merged / "chat_template.jinja").read_text() == template
    assert AutoTokenizer.from_pretrained(merged).chat_template == template


def test_quantised_layers_that_are_stored_transposed_are_refused(tmp_path: Path) -> None:
    shape = GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=100, n_positions=32)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"attn\.c_attn is stored transposed"):
        BaseWeights(ModelDir(tmp_path), config_of({}), dequantised=True)


def test_tensors_are_counted_from_the_headers(tiny_model: Path) -> None:
    assert tensor_count(ModelDir(tiny_model)) == 2 * 9 + 3


def test_a_merge_loads_no_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, base = config_of({}, "bfloat16"), ModelDir(tiny_model)
    adapter = saved(adapted(base, config), base, config, tmp_path / "adapter")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loads a whole model")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", refuse)
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", refuse)
    write_merged(BaseWeights(base, config, dequantised=True), adapter, out(tmp_path), "bfloat16")
