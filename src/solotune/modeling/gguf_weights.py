"""Which tensors of a GGUF file aren't those of the model that it was made of, by name.

The converter renames tensors, reorders the rows or columns of some (Llama's q and k), transposes or scales others, adds
1 to some norms, and all are rounded. So rows drawn from a matrix are looked for among all rows of the file's, by
direction alone: there each has a twin, and in another matrix nothing that is like it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import torch

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling import shards

_ALIKE = 0.8
"""Mean cosine of rows and their likest: of right ones 0.94 and more, of others 0.41 at most (benchmarks/README.md)."""
_DRAWN = 64
"""Rows, or columns."""
_SHORTEST = 16
"""Shorter ones are like one another by chance."""
_AT_ONCE = 2**24
"""Values of the file that stand in float32."""
_CLOSE = 2e-3
"""Of the largest value: four times what float16 rounds."""
_TINY = 1e-30


class _Pair(NamedTuple):
    """A tensor of the model, and the one of the file that has its name."""

    name: str
    shard: Path
    found: gguf.ReaderTensor
    here: tuple[int, ...]
    there: tuple[int, ...]
    """Its shape in the file."""


def wrong_tensors(path: Path, merged: Path, on_tensors: Callable[[int], None] = lambda _: None) -> list[str]:
    """Names matrices, norms and biases that are empty, or another's. What merges several of the model's is left out.

    A fault of some values of a matrix doesn't show here; what it does to the model does, on held-out rows.

    Args:
        path: the GGUF file, of any type.
        merged: the folder that it was made of.
        on_tensors: called with the number of tensors done.

    Returns:
        `blk.1.ffn_down.weight isn't model.layers.1.mlp.down_proj.weight`, in the order of the merged model's files.
    """
    pairs, others = _pairs(gguf.GGUFReader(path), merged)
    on_tensors(others)
    # Where all linear layers are transposed (GPT-2's) the square ones are too; else such a one is a fault.
    are_turned = any(pair.here != pair.there == pair.here[::-1] for pair in pairs)
    wrong = []
    for pair in pairs:
        expected = shards.read(pair.shard, pair.name)
        ways = [expected, expected.T] if expected.ndim == 2 and are_turned else [expected]
        if not any(_alike(pair, way) for way in ways):
            wrong.append(f"{pair.found.name} isn't {pair.name}")
        on_tensors(1)
    return wrong


def _pairs(reader: gguf.GGUFReader, merged: Path) -> tuple[list[_Pair], int]:
    """Those of as many dimensions, and how many tensors of the model are in none."""
    tensors, names = {tensor.name: tensor for tensor in reader.tensors}, _names(reader)
    pairs, others = [], 0
    for shard in ModelDir(merged).weight_files():
        for name, place in shards.places(shard).items():
            found = tensors.get(names.get_name(name, try_suffixes=(".weight", ".bias")) or "")
            there = tuple(int(size) for size in reversed(found.shape)) if found else ()
            if found and name.endswith((".weight", ".bias")) and len(there) == len(place.shape) <= 2:
                pairs.append(_Pair(name, shard, found, place.shape, there))
            else:
                others += 1
    return pairs, others


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


def _alike(pair: _Pair, expected: torch.Tensor) -> bool:
    if expected.ndim == 1:
        return _has_values(pair, expected)
    return _has_rows(pair, expected) or _has_columns(pair, expected)


def _has_values(pair: _Pair, expected: torch.Tensor) -> bool:
    """Norms and biases are stored nearly as they are: in any order, with a number added to all of them."""
    if pair.here != pair.there:
        return True  # padded, or cut
    ((_, found),) = _slabs(pair)
    if not found.any():
        return not expected.any()
    shift = found.sort().values - expected.float().sort().values
    return float((shift - shift.mean()).abs().max()) <= _CLOSE * float(found.abs().max())


def _has_rows(pair: _Pair, expected: torch.Tensor) -> bool:
    if expected.shape[1] != pair.there[1] or expected.shape[1] < _SHORTEST:
        return False
    drawn = expected[_draw(expected, along=1)].float()
    likest = torch.zeros(len(drawn))
    for _, slab in _slabs(pair):
        products = (drawn @ slab.T).abs() / slab.norm(dim=1).clamp_min(_TINY)
        likest = likest.maximum(products.amax(dim=1))
    return _are_twins(likest, drawn.norm(dim=1))


def _has_columns(pair: _Pair, expected: torch.Tensor) -> bool:
    if len(expected) != pair.there[0] or len(expected) < _SHORTEST:
        return False
    drawn = expected[:, _draw(expected, along=0)].float()
    products, squares = torch.zeros(drawn.shape[1], pair.there[1]), torch.zeros(pair.there[1])
    for start, slab in _slabs(pair):
        products += drawn[start : start + len(slab)].T @ slab
        squares += slab.square().sum(dim=0)
    return _are_twins((products.abs() / squares.sqrt().clamp_min(_TINY)).amax(dim=1), drawn.norm(dim=0))


def _draw(matrix: torch.Tensor, along: int) -> torch.Tensor:
    """Numbers of rows (`along` 1) or columns that aren't empty, the same each time."""
    filled = matrix.any(dim=along).nonzero().flatten()
    order = torch.randperm(len(filled), generator=torch.Generator().manual_seed(0))
    return filled[order[:_DRAWN]]


def _are_twins(likest: torch.Tensor, sizes: torch.Tensor) -> bool:
    """Weighted by size, of which rounding leaves little where there is little."""
    return float(likest.sum()) >= _ALIKE * float(sizes.sum())


def _slabs(pair: _Pair) -> Iterator[tuple[int, torch.Tensor]]:
    """The file's tensor in float32, so many of its rows at a time, with the number of the first."""
    data, kind = pair.found.data, pair.found.tensor_type
    rows = max(1, _AT_ONCE // pair.there[-1]) if len(pair.there) == 2 else len(data)
    for start in range(0, len(data), rows):
        values = gguf.quants.dequantize(data[start : start + rows], kind)
        yield start, torch.from_numpy(np.require(values, np.float32, "W"))  # f32 isn't copied, and read-only
