from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tests.modeling.conftest import Converted

from solotune.modeling.gguf_export import convert
from solotune.modeling.gguf_weights import wrong_matrices


def changed(converted: Converted, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of a file, and its tensors, to be written to."""
    path = folder / "changed.gguf"
    shutil.copyfile(converted.path, path)
    return path, {tensor.name: tensor.data for tensor in gguf.GGUFReader(path, "r+").tensors}


def test_a_converted_file_holds_the_weights_that_it_was_made_of(tiny_gguf: Converted) -> None:
    """Among them Llama's q and k, whose rows the converter reorders."""
    seen: list[int] = []
    assert wrong_matrices(tiny_gguf.path, tiny_gguf.merged, seen.append) == []
    assert sum(seen) == 21


def test_an_empty_matrix_is_named(tiny_gguf: Converted, tmp_path: Path) -> None:
    path, tensors = changed(tiny_gguf, tmp_path)
    tensors["output.weight"][:] = 0
    assert wrong_matrices(path, tiny_gguf.merged) == ["output.weight isn't lm_head.weight"]


def test_two_layers_swapped_are_named(tiny_gguf: Converted, tmp_path: Path) -> None:
    path, tensors = changed(tiny_gguf, tmp_path)
    one, other = (tensors[f"blk.{i}.attn_q.weight"] for i in (0, 1))
    one[:], other[:] = np.array(other), np.array(one)
    assert wrong_matrices(path, tiny_gguf.merged) == [
        f"blk.{i}.attn_q.weight isn't model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)
    ]


def test_what_keeps_a_matrix_is_no_fault(tiny_gguf: Converted, tmp_path: Path) -> None:
    """Rows in another order, another scale, another way round: other converters do it."""
    path, tensors = changed(tiny_gguf, tmp_path)
    tensors["blk.0.ffn_up.weight"][:] = tensors["blk.0.ffn_up.weight"][::-1] * 12
    tensors["blk.1.attn_output.weight"][:] = np.array(tensors["blk.1.attn_output.weight"]).T
    assert wrong_matrices(path, tiny_gguf.merged) == []


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["Qwen3", "Olmo2", "StableLm", "Granite"])
def test_other_architectures_are_read_with_their_own_names(
    tiny_tokenizer: Path, tmp_path: Path, architecture: str
) -> None:
    import torch
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
    assert wrong_matrices(tmp_path / "one.gguf", merged) == []
    embedding, down = "token_embd.weight", "blk.1.ffn_down.weight"
    for tensor in gguf.GGUFReader(tmp_path / "one.gguf", "r+").tensors:
        if tensor.name in (embedding, down):
            tensor.data[:] = 0
    assert [what.split()[0] for what in wrong_matrices(tmp_path / "one.gguf", merged)] == [embedding, down]
