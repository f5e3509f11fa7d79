"""Which matrices of a GGUF file aren't those of the model that it was made of, by name.

The converter renames tensors, and reorders the rows of some (Llama's q and k), transposes or scales them, so they can't
be compared value by value. The sums of a matrix's columns, or those of its rows, keep their direction through all of
that; rounding to few bits turns it little, and another matrix has another one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import torch

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling import shards

_ALIKE = 0.93
"""Cosine of the sums. In SmolLM2 those of one matrix as q2_k are 0.985 and more, those of two layers 0.852 at most."""


def wrong_matrices(path: Path, merged: Path, on_tensors: Callable[[int], None] = lambda _: None) -> list[str]:
    """Names matrices that are empty, or those of another layer. What isn't a matrix, or merges several, is left out.

    A fault of some values of a matrix doesn't show here; what it does to the model does, on held-out rows.

    Args:
        path: the GGUF file, of any type.
        merged: the folder that it was made of.
        on_tensors: called with the number of tensors done.

    Returns:
        `blk.1.ffn_down.weight isn't model.layers.1.mlp.down_proj.weight`, in the order of the merged model's files.
    """
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors if len(tensor.shape) == 2}
    names = _names(reader)
    wrong = []
    for shard in ModelDir(merged).weight_files():
        for name, place in shards.places(shard).items():
            on_tensors(1)
            called = names.get_name(name, try_suffixes=(".weight",)) if name.endswith(".weight") else None
            if called is None or called not in tensors or len(place.shape) != 2:
                continue
            data, kind = tensors[called].data, tensors[called].tensor_type
            found = np.require(gguf.quants.dequantize(data, kind), requirements="W")  # f32 isn't copied, and read-only
            if not _alike(torch.from_numpy(found), shards.read(shard, name)):
                wrong.append(f"{called} isn't {name}")
    return wrong


def _names(reader: gguf.GGUFReader) -> gguf.TensorNameMap:
    """The file's names of tensors by the model's."""

    def value(key: str) -> object:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    architecture = value("general.architecture")
    blocks = value(f"{architecture}.block_count")
    known = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    assert isinstance(architecture, str)
    assert isinstance(blocks, int)
    return gguf.get_tensor_name_map(known[architecture], blocks)


def _alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    ours, theirs = ([matrix.sum(dim=dim, dtype=torch.float64) for dim in (0, 1)] for matrix in (found, expected))
    return any(_same_direction(one, other) for one in ours for other in theirs if one.shape == other.shape)


def _same_direction(one: torch.Tensor, other: torch.Tensor) -> bool:
    sizes = float(one.norm() * other.norm())
    return float(one @ other) >= _ALIKE * sizes if sizes else torch.equal(one, other)
