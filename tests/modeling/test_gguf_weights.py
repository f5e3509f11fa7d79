from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.modeling.conftest import Converted

from solotune.modeling.gguf_export import convert
from solotune.modeling.gguf_weights import wrong_tensors
from solotune.stages.export.gguf import write_gguf


def changed(converted: Converted, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a file, and its tensors, to be written to."""
    path = folder / "changed.gguf"
    shutil.copyfile(converted.path, path)
    return path, {tensor.name: tensor.data for tensor in gguf.GGUFReader(path, "r+").tensors}


def test_a_converted_file_holds_the_weights_that_it_was_made_of(tiny_gguf: Converted) -> None:
    """Among them Llama's q and k, whose rows the converter reorders."""
    seen: list[int] = []
    assert wrong_tensors(tiny_gguf.path, tiny_gguf.merged, seen.append) == []
    assert sum(seen) == 21


def test_an_empty_matrix_is_named(tiny_gguf: Converted, tmp_path: Path) -> None:
    path, tensors = changed(tiny_gguf, tmp_path)
    tensors["output.weight"][:] = 0
    assert wrong_tensors(path, tiny_gguf.merged) == ["output.weight isn't lm_head.weight"]


def test_two_layers_swapped_are_named(tiny_gguf: Converted, tmp_path: Path) -> None:
    path, tensors = changed(tiny_gguf, tmp_path)
    one, other = (tensors[f"blk.{i}.attn_q.weight"] for i in (0, 1))
    one[:], other[:] = np.array(other), np.array(one)
    assert wrong_tensors(path, tiny_gguf.merged) == [
        f"blk.{i}.attn_q.weight isn't model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)
    ]


def test_half_a_matrix_that_is_empty_is_named(tiny_gguf: Converted, tmp_path: Path) -> None:
    path, tensors = changed(tiny_gguf, tmp_path)
    tensors["blk.0.ffn_up.weight"][::2] = 0
    assert wrong_tensors(path, tiny_gguf.merged) == ["blk.0.ffn_up.weight isn't model.layers.0.mlp.up_proj.weight"]


def test_what_keeps_a_matrix_is_no_fault(tiny_gguf: Converted, tmp_path: Path) -> None:
    """Rows or columns in another order, another scale, 1 more: other converters do it."""
    path, tensors = changed(tiny_gguf, tmp_path)
    tensors["blk.0.ffn_up.weight"][:] = tensors["blk.0.ffn_up.weight"][::-1] * 12
    tensors["blk.1.attn_output.weight"][:] = np.roll(tensors["blk.1.attn_output.weight"], 16, axis=1)
    tensors["blk.0.ffn_norm.weight"][:] += 1
    assert wrong_tensors(path, tiny_gguf.merged) == []


def test_a_square_matrix_may_be_turned_where_all_are(tiny_gguf: Converted, tmp_path: Path) -> None:
    path, tensors = changed(tiny_gguf, tmp_path)
    turned = {"blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight"}
    tensors["blk.1.attn_output.weight"][:] = np.array(tensors["blk.1.attn_output.weight"]).T
    assert wrong_tensors(path, tiny_gguf.merged) == [f"{one} isn't {other}" for one, other in turned.items()]
    merged = tmp_path / "merged"
    shutil.copytree(tiny_gguf.merged, merged)
    weights = load_file(merged / "model.safetensors")
    down = "model.layers.0.mlp.down_proj.weight"
    save_file(weights | {down: weights[down].T.contiguous()}, merged / "model.safetensors")
    assert wrong_tensors(path, merged) == []


def test_norms_and_biases_that_are_empty_or_anothers_are_named(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    norms = {f"model.layers.{i}.input_layernorm.weight": torch.rand(64, generator=generator) for i in (0, 1)}
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.randn(64, generator=generator) * 0.01}
    right = written(tmp_path, norms | bias)
    assert wrong_tensors(right, tmp_path) == []
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(right, "r+").tensors}
    one, other = (tensors[f"blk.{i}.attn_norm.weight"] for i in (0, 1))
    one[:], other[:] = np.array(other), np.array(one)
    tensors["blk.0.attn_q.bias"][:] = 0
    assert sorted(what.split()[0] for what in wrong_tensors(right, tmp_path)) == [
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.bias",
        "blk.1.attn_norm.weight",
    ]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_matrix_whose_rows_and_columns_add_up_to_nothing_is_found_too(tmp_path: Path, kind: str) -> None:
    drawn = torch.randn(2, 128, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn -= drawn.mean(1, keepdim=True)
    drawn -= drawn.mean(2, keepdim=True)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in (0, 1)]
    path = written(tmp_path, dict(zip(names, drawn.float(), strict=True)), kind)
    assert wrong_tensors(path, tmp_path) == []
    save_file(dict(zip(names, drawn.flip(0).float().contiguous(), strict=True)), tmp_path / "model.safetensors")
    assert len(wrong_tensors(path, tmp_path)) == 2


def written(folder: Path, weights: dict[str, torch.Tensor], kind: str = "F32") -> Path:
    """A model of two layers, as safetensors and as GGUF; returns that."""
    save_file(weights, folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    writer = gguf.GGUFWriter(folder / "written.gguf", "llama")
    writer.add_block_count(2)
    for name, tensor in weights.items():
        called = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert called
        quantised = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(called, gguf.quants.quantize(tensor.numpy(), quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "written.gguf"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m", "q2_k"])
@pytest.mark.parametrize("drawn", ["normal", "heavy-tailed"])
def test_each_type_has_the_weights_that_it_was_made_of(
    tiny_tokenizer: Path, tmp_path: Path, drawn: str, kind: str
) -> None:
    """Weights without any structure are those that few bits change most."""
    import transformers

    torch.manual_seed(0)
    draw = torch.distributions.StudentT(3.0) if drawn == "heavy-tailed" else torch.distributions.Normal(0.0, 1.0)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=400, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.02 * draw.sample(parameter.shape) + (parameter.ndim == 1))
    merged = tmp_path / "merged"
    model.save_pretrained(merged)
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, merged / file.name)
    file = tmp_path / "one.gguf"
    write_gguf(merged, file, kind, tmp_path)
    assert wrong_tensors(file, merged) == []
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)]
    weights = load_file(merged / "model.safetensors")
    swapped = dict(zip(names, (weights[name] for name in reversed(names)), strict=True))
    save_file(weights | swapped, merged / "model.safetensors")
    assert [what.split()[-1] for what in wrong_tensors(file, merged)] == names


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["Qwen3", "Olmo2", "StableLm", "Granite"])
def test_other_architectures_are_read_with_their_own_names(
    tiny_tokenizer: Path, tmp_path: Path, architecture: str
) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=400, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    merged = tmp_path / "merged"
    getattr(transformers, f"{architecture}ForCausalLM")(config).save_pretrained(merged)
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, merged / file.name)
    convert(merged, tmp_path / "one.gguf", "q8_0")
    assert wrong_tensors(tmp_path / "one.gguf", merged) == []
    embedding, down = "token_embd.weight", "blk.1.ffn_down.weight"
    for tensor in gguf.GGUFReader(tmp_path / "one.gguf", "r+").tensors:
        if tensor.name in (embedding, down):
            tensor.data[:] = 0
    assert [what.split()[0] for what in wrong_tensors(tmp_path / "one.gguf", merged)] == [embedding, down]
