"""Both stages measure a merged model on the CPU where the GPU, which holds its base in 4 bits, is too small for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tests.helpers import make_config

from solotune.artifacts.measured import Artefact
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.modeling import merged_model
from solotune.modeling.card import GIB
from solotune.modeling.chat import ChatEncoder
from solotune.stages import evaluate
from solotune.stages.evaluate.exported import Exported, opened
from solotune.stages.export.yardstick import Yardstick


@pytest.fixture
def run_dir(tmp_path: Path, tiny_model: Path) -> RunDir:
    shutil.copytree(tiny_model, tmp_path / "export" / "merged")
    return RunDir(tmp_path)


@pytest.fixture
def loaded_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A card without room for anything; the devices that merged models were loaded on."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=3 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda _: None)
    devices: list[str] = []

    def load(folder: Path, config: Any, dtype: str | None = None) -> object:
        devices.append(config.device)
        return SimpleNamespace(dtype=torch.float32)

    monkeypatch.setattr(merged_model, "load_merged_model", load)
    return devices


CONFIG = make_config(device="cuda")
MERGED = Exported(Artefact("export/merged", {}, "original", {}, {}, True), range(2))


def test_evaluate_says_so_beforehand_and_does_it(
    run_dir: RunDir, tiny_model: Path, loaded_on: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate._announce(run_dir, CONFIG, cast("Any", _Rows()), {"merged": MERGED})
    assert "base and adapter on cuda; merged on cpu; " in capsys.readouterr().out
    with opened(run_dir, MERGED, ChatEncoder.open(ModelDir(tiny_model)), CONFIG):
        assert loaded_on == ["cpu"]
    assert "the merged model takes 0.0 GiB, and 1.5 of the GPU may be used: it is" in capsys.readouterr().out


@pytest.mark.parametrize(("fast", "computed_in"), [(True, "bfloat16 on cpu"), (False, "float32 on cpu")])
def test_export_does_it_and_says_in_what(
    run_dir: RunDir, loaded_on: list[str], monkeypatch: pytest.MonkeyPatch, fast: bool, computed_in: str
) -> None:
    monkeypatch.setattr(merged_model, "has_fast_bfloat16", lambda: fast)
    monkeypatch.setattr(Yardstick, "hold", lambda *_: (loaded_on.append("held"), MERGED.artefact)[1])
    anything = cast("Any", SimpleNamespace(config=CONFIG, encoder=None))
    measured = Yardstick(anything, anything, anything, anything).measure_merged("m", run_dir.export / "merged", {})
    assert loaded_on == ["cpu", "held"]
    assert measured.computed_in == computed_in


class _Rows:
    split = "test"

    def __len__(self) -> int:
        return 2
