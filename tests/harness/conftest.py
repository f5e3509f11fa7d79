"""Rows that are held out, and small models that are measured on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.helpers import make_config
from transformers import AutoModelForCausalLM

from solotune.artifacts.model_dir import ModelDir
from solotune.dataset.contract import Message, Meta, Row
from solotune.harness.held_out import HeldOut
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.subject import TorchSubject
from solotune.modeling.token_cache import tokenised

CONFIG = make_config(
    model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"},
    evaluation={"max_new_tokens": 6, "batch_size": 4},
)


def make_row(number: int, *contents: str, tags: list[str] | None = None) -> Row:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=content) for i, content in enumerate(contents))
    return Row(id=f"row-{number}", messages=messages, meta=Meta(tags=tags or []))


@pytest.fixture
def held_out_of(tiny_model: Path, tmp_path: Path) -> Callable[[list[Row]], HeldOut]:
    """Makes rows to what the harness takes."""

    def make(rows: list[Row]) -> HeldOut:
        path = tmp_path / "test.jsonl"
        path.write_text("\n".join(map(repr, rows)))  # only its hash is looked at
        encoder = ChatEncoder.open(ModelDir(tiny_model))
        return HeldOut("test", rows, tokenised(path, lambda: (row.messages for row in rows), encoder), encoder)

    return make


@pytest.fixture
def held_out(held_out_of: Callable[[list[Row]], HeldOut]) -> HeldOut:
    """Six rows, one of them of two turns."""
    rooms = ("kitchen", "hall", "attic", "cellar", "garage")
    rows = [make_row(i, f"light in the {room}", f'{{"room": "{room}"}}', tags=["one"]) for i, room in enumerate(rooms)]
    return held_out_of([*rows, make_row(5, "on", "it is on", "and off", "it is off now", tags=["two", "one"])])


@pytest.fixture
def subject_of(tiny_model: Path, held_out: HeldOut) -> Callable[..., TorchSubject]:
    """The tiny model, with noise of a size on its weights."""

    def make(noise: float = 0.0) -> TorchSubject:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(noise * torch.randn_like(weight))
        return TorchSubject(model, held_out.encoder, CONFIG)

    return make
