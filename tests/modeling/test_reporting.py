"""Upstream's callback for Trackio on a package of that name that writes down what it gets."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from solotune import cli
from solotune.artifacts.files import sha256_file
from solotune.artifacts.run_dir import RunDir
from solotune.errors import MachineError
from solotune.modeling.reporting import Reporting, require

_TRACKIO = """
import json, os, random, types
import numpy, torch
__version__ = "1.0.0"
config = {}
context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
class _Config(dict):
    def update(self, values, allow_val_change): super().update(values)
config = _Config()
def _note(**what):
    random.random(), numpy.random.rand(), torch.rand(3)
    with open(os.environ["TRACKIO_DIR"] + ".jsonl", "a") as file:
        file.write(json.dumps(what) + "\\n")
def init(**given):
    _note(init=given["name"], project=given["project"], space=given["space_id"])
def log(values):
    _note(log=values)
def finish():
    _note(finished=True)
"""


@pytest.fixture
def trackio(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Installs a package of that name; what is given comes behind its own code."""
    folder = tmp_path_factory.mktemp("site-packages")
    monkeypatch.syspath_prepend(folder)

    def install(more: str = "") -> None:
        (folder / "trackio.py").write_text(_TRACKIO + more)

    yield install
    sys.modules.pop("trackio", None)


def train(run_id: str, *report_to: str) -> RunDir:
    names = f"training.report_to=[{','.join(report_to)}]"
    argv = ["train", "--config", "small.yaml", "--run-id", run_id, "--set", "training.max_steps=3", "--set", names]
    assert cli.main(argv) == 0
    return RunDir(Path("runs") / run_id)


def test_it_gets_what_the_log_gets_and_the_adapter_is_the_same(
    small_experiment: Path, trackio: Callable[[str], None]
) -> None:
    trackio("")
    for command in ("fetch", "prepare"):
        assert cli.main([command, "--config", "small.yaml"]) == 0
    plain = train("20260101-000000-small-aaaaaa")
    told = train("20260101-000001-small-bbbbbb", "trackio")
    heard = [json.loads(line) for line in (told.reporting / "trackio.jsonl").read_text().splitlines()]
    assert heard[0] == {"init": told.run_id, "project": "solotune", "space": None}
    assert heard[-1] == {"finished": True}
    logged = [line["log"] for line in heard if "log" in line]
    lines = [json.loads(line) for line in told.metrics.read_text().splitlines()]
    for ours, theirs in (("loss", "train/loss"), ("eval_loss", "eval/loss")):
        assert [line[ours] for line in lines if ours in line] == [log[theirs] for log in logged if theirs in log]
    assert not plain.reporting.exists()
    name = "adapter_model.safetensors"
    assert sha256_file(plain.adapter / name) == sha256_file(told.adapter / name)


def test_one_that_fails_is_told_of_once_and_the_others_go_on(
    tmp_path: Path, trackio: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    trackio("def log(values): raise ValueError('no \\x1b[31m network\\nsecond line')")
    reporting = Reporting(["trackio"], RunDir(tmp_path / "run"))
    numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    for _ in range(3):
        reporting.on_log(_args(), _state(), None, logs={"loss": 1.5})  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert np.random.get_state()[1].tolist() == numbers[1]  # type: ignore[union-attr]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "trackio failed (on_log) and gets no more: ValueError: no \\x1b[31m network;" in warning


def test_a_run_that_goes_on_without_the_package_is_told_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporting = Reporting(["wandb"], RunDir(tmp_path / "run"))
    reporting.on_log(_args(), _state(), None, logs={"loss": 1.5})  # type: ignore[arg-type]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "training.report_to: wandb isn't installed and gets nothing" in warning


def test_a_missing_package_stops_a_run_before_it_begins(
    small_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--config", "small.yaml", "--set", "training.report_to=[wandb]"]) == 2
    err = capsys.readouterr().err
    assert "training.report_to: wandb isn't installed. Put wandb among the dependencies" in err
    assert "`invoke lock --package wandb`" in err
    assert not Path("runs").exists()
    with pytest.raises(MachineError, match="mlflow, wandb aren't installed"):
        require(["mlflow", "wandb"])


def test_nothing_leaves_the_run_unless_the_environment_says_so(
    tmp_path: Path, trackio: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio("")
    run = RunDir(tmp_path / "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine")
    Reporting(["wandb", "mlflow", "trackio"], run)
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["WANDB_DIR"] == str(run.reporting)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine"
    assert os.environ["TRACKIO_DIR"] == str(run.reporting / "trackio")


def test_tensorboard_needs_no_asking(small_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--config", "small.yaml", "--set", "training.report_to=[tensorboard]"]) == 2
    assert "TensorBoard's event file lies beside metrics.jsonl anyway" in capsys.readouterr().err


def _args() -> SimpleNamespace:
    return SimpleNamespace(
        to_dict=dict, project="p", run_name="r", trackio_space_id=None, hub_private_repo=None, trackio_bucket_id=None
    )


def _state() -> SimpleNamespace:
    return SimpleNamespace(is_world_process_zero=True, global_step=1)
