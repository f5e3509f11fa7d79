"""Safetensors files read and written one tensor at a time: memory for a tensor, not for a shard.

`save_file` wants a whole shard, and shards of 50 GB are transformers' default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""As the format spells them."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


@dataclass(frozen=True)
class Place:
    """What a file's header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype in ("BF16", "F16", "F32", "F64")

    @property
    def bytes(self) -> int:
        return prod(self.shape) * _BYTES.get(self.dtype, 1)


def places(shard: Path) -> dict[str, Place]:
    """Every tensor of a file, from its header.

    Raises:
        SafetensorError: it is cut, or no safetensors file.
    """
    with safe_open(shard, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return {name: Place(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def read(shard: Path, name: str) -> torch.Tensor:
    """One tensor, on the CPU. The file is opened for it alone: an open one keeps every page that was read."""
    with safe_open(shard, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


@contextmanager
def writing(shard: Path, layout: Mapping[str, Place]) -> Iterator[Callable[[str, torch.Tensor], None]]:
    """Opens a new file; yields a function that adds the next tensor of `layout`.

    The format: 8 bytes of header length, a JSON header, the tensors one behind the other
    (https://huggingface.co/docs/safetensors/index#format).
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, place in layout.items():
        header[name] = {"dtype": place.dtype, "shape": place.shape, "data_offsets": (end, end + place.bytes)}
        end += place.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    waiting = iter(layout.items())
    with shard.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)

        def add(name: str, tensor: torch.Tensor) -> None:
            expected, place = next(waiting)
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            assert (name, tuple(tensor.shape), flat.numel()) == (expected, place.shape, place.bytes)
            file.write(flat.numpy().data)

        yield add
        assert next(waiting, None) is None, "a tensor was left out"
