"""On which device a merged model is measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.helpers import make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.errors import MachineError
from solotune.modeling import merged_model, serving
from solotune.modeling.card import GIB
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.merged_model import merged_subject, where_it_fits

EIGHT_B = int(15.0 * GIB)
"""In 16 bits."""


def of_size(folder: Path, weights: int) -> Path:
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weights)
    return folder


def with_card(monkeypatch: pytest.MonkeyPatch, gib: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=gib * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda _: None)


@pytest.mark.parametrize(
    ("card", "weights", "device"),
    [
        (24, EIGHT_B, "cuda"),  # the bound that export promises
        (24, 2 * EIGHT_B, "cpu"),  # merge_dtype: float32
        (16, EIGHT_B, "cpu"),  # QLoRA of an 8B model was trained on it
        (12, EIGHT_B // 4, "cuda"),
    ],
)
def test_a_merged_model_that_is_too_large_for_the_card_goes_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, card: int, weights: int, device: str
) -> None:
    with_card(monkeypatch, card)
    assert where_it_fits(of_size(tmp_path, weights), make_config(device="cuda")).device == device


@pytest.mark.parametrize(
    ("fast", "free", "dtype"),
    [(True, 64, "bfloat16"), (False, 64, "float32"), (False, 24, "bfloat16")],
)
def test_there_it_is_computed_in_what_the_processor_is_fast_in_if_that_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fast: bool, free: int, dtype: str
) -> None:
    """Twice the memory."""
    with_card(monkeypatch, 12)
    monkeypatch.setattr(merged_model, "has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(merged_model.psutil, "virtual_memory", lambda: SimpleNamespace(available=free * GIB))
    where = where_it_fits(of_size(tmp_path, EIGHT_B), make_config(device="cuda"))
    assert (where.device, where.model.dtype) == ("cpu", dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_on_a_cpu_it_is_computed_in_the_runs_type_on_the_values_that_are_stored(tiny_model: Path, dtype: str) -> None:
    config = make_config(model={"name_or_path": "somewhere", "source": "folder", "dtype": dtype})
    with merged_subject(tiny_model, ChatEncoder.open(ModelDir(tiny_model)), config, "") as subject:
        assert {str(p.dtype) for p in subject._model.parameters()} == {f"torch.{dtype}"}
        assert subject.computes_in == f"{dtype} on cpu"
    served = serving._OneModel(tiny_model, "it", config)
    assert str(served._load_model().dtype) == f"torch.{dtype}"


def test_without_memory_for_float32_it_is_loaded_in_the_type_it_is_stored_in(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    config = make_config(model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"})
    monkeypatch.setattr(merged_model.psutil, "virtual_memory", lambda: SimpleNamespace(available=GIB))
    loaded: list[str | None] = []
    monkeypatch.setattr(merged_model, "load_merged_model", lambda folder, where, dtype: loaded.append(dtype))
    with merged_subject(tiny_model, ChatEncoder.open(ModelDir(tiny_model)), config, ""):
        pass
    assert loaded == [None]


def test_what_was_trained_on_a_cpu_is_measured_there(tmp_path: Path) -> None:
    config = make_config(device="cpu")
    assert where_it_fits(of_size(tmp_path, EIGHT_B), config) is config


def test_a_model_that_doesnt_fit_all_the_same_is_one_line_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    """While it is loaded, or while it is measured."""
    encoder = ChatEncoder.open(ModelDir(tiny_model))

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def measured() -> None:
        with merged_subject(tiny_model, encoder, make_config(), "Ask less"):
            full()

    with pytest.raises(MachineError, match=r"merged model doesn't fit into the GPU's memory .*\. Ask less"):
        measured()
    monkeypatch.setattr("solotune.modeling.merged_model.load_merged_model", full)
    with pytest.raises(MachineError, match="Ask less"):
        measured()
