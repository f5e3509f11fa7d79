"""The whole chain through the command line, on a tiny random model: real TRL, PEFT and bitsandbytes, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from solotune import cli
from solotune.artifacts.checkpoints import Checkpoints
from solotune.artifacts.files import sha256_file
from solotune.artifacts.run_dir import RunDir

pytestmark = pytest.mark.timeout(300)

A, B = "20260101-000000-small-aaaaaa", "20260101-000001-small-bbbbbb"


def run(*argv: str) -> None:
    assert cli.main(argv) == 0


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prepared(small_experiment: Path) -> Path:
    run("fetch", "--config", "small.yaml")
    run("prepare", "--config", "small.yaml")
    return small_experiment


def test_from_raw_rows_to_a_measured_merged_model(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw_before = sha256_file(Path("data/raw/rows.jsonl"))
    run("plan", "--config", "small.yaml")
    run("train", "--config", "small.yaml", "--run-id", A)
    run("evaluate", "--run", "latest")
    run("export", "--run", A[:15], "--merge")
    run("runs")
    out = capsys.readouterr().out
    assert A in out
    assert "exported" in out

    run_dir = RunDir(Path("runs") / A)
    manifest, outcome = run_dir.finished()
    assert outcome.steps == 6
    assert outcome.tokens > outcome.trained_tokens > 0
    assert manifest.environment["libraries"]["torch"]
    assert [line["step"] for line in lines(run_dir.metrics) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(run_dir.metrics) if "eval_loss" in line] == [3, 6]

    report = run_dir.report()
    assert report is not None
    assert report.adapter.loss < report.base.loss
    assert report.comparison["loss"].verdict == "better"
    predictions = lines(run_dir.predictions)
    assert len(predictions) == report.examples > 0
    assert sum(p["adapter"]["nll"] for p in predictions) / report.tokens == pytest.approx(report.adapter.loss)  # type: ignore[index]

    record = json.loads(run_dir.export_record.read_text())
    merged = record["artefacts"]["merged"]
    assert merged["passed"]
    assert merged["merge_base"] == "dequantised"
    assert abs(merged["measured"]["difference"]) <= 0.05
    assert (run_dir.export / "adapter" / "chat_template.jinja").read_text() == (
        run_dir.export / "merged" / "chat_template.jinja"
    ).read_text()
    assert "sha256" in (run_dir.export / "adapter" / "README.md").read_text()
    assert sha256_file(Path("data/raw/rows.jsonl")) == raw_before

    assert cli.main(["export", "--run", A]) == 2
    assert cli.main(["train", "--resume", A]) == 2


def test_two_runs_of_one_config_give_the_same_adapter_and_so_does_a_resumed_one(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    # A constant rate, in the middle of an epoch: a step too many would show in the adapter.
    constant = ("--set", "training.lr_scheduler_type=constant", "--set", "training.logging_steps=4")
    run("train", "--config", "small.yaml", "--run-id", A, *constant)
    torch.rand(7)  # a disturbed generator must not matter
    run("train", "--config", "small.yaml", "--run-id", B, *constant)
    first, second = RunDir(Path("runs") / A), RunDir(Path("runs") / B)
    adapter = sha256_file(first.adapter / "adapter_model.safetensors")
    assert sha256_file(second.adapter / "adapter_model.safetensors") == adapter

    # As a kill after step 5 leaves it: checkpoints of steps 2 and 4, later log lines, no adapter, no outcome.
    assert sorted(p.name for p in second.checkpoints.iterdir()) == ["step-000004", "step-000006"]
    shutil.rmtree(second.checkpoints / "step-000006")
    shutil.rmtree(second.adapter)
    manifest = json.loads(second.manifest_path.read_text())
    second.manifest_path.write_text(json.dumps({**manifest, "outcome": None}))
    whole = lines(second.metrics)
    with second.metrics.open("a") as file:
        file.write('{"step": 7, "lo')
    run("train", "--resume", B)
    assert sha256_file(second.adapter / "adapter_model.safetensors") == adapter
    resumed = lines(second.metrics)
    assert [(x["step"], x.get("loss"), x.get("eval_loss")) for x in resumed] == [
        (x["step"], x.get("loss"), x.get("eval_loss")) for x in whole
    ]
    assert second.finished()[1].tokens == first.finished()[1].tokens

    # As a kill between the last checkpoint and the manifest leaves it: the adapter may be there or not.
    manifest = json.loads(second.manifest_path.read_text())
    second.manifest_path.write_text(json.dumps({**manifest, "outcome": None}))
    run("train", "--resume", B)
    assert sha256_file(second.adapter / "adapter_model.safetensors") == adapter
    assert second.finished()[1].eval_loss == first.finished()[1].eval_loss
    assert second.finished()[1].steps == 6
    assert not (second.checkpoints / "step-000007").exists()

    # And before the first checkpoint: everything is made anew, the log too.
    shutil.rmtree(second.checkpoints)
    second.manifest_path.write_text(json.dumps({**manifest, "outcome": None}))
    run("train", "--resume", B)
    assert sha256_file(second.adapter / "adapter_model.safetensors") == adapter
    assert [x["step"] for x in lines(second.metrics)] == [x["step"] for x in whole]
    assert [r["from_step"] for r in json.loads(second.manifest_path.read_text())["resumes"]] == [4, 0]


def test_a_run_whose_inputs_changed_is_refused(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "--config", "small.yaml", "--run-id", A)
    text = prepared.read_text()

    prepared.write_text(text.replace("max_steps: 6", "max_steps: 8"))
    second = RunDir(Path("runs") / A)
    manifest = json.loads(second.manifest_path.read_text())
    second.manifest_path.write_text(json.dumps({**manifest, "outcome": None}))
    assert cli.main(["train", "--resume", A, "--config", "small.yaml"]) == 2
    assert "training.max_steps: run" in capsys.readouterr().err
    second.manifest_path.write_text(json.dumps(manifest))

    edited = second.config.read_text()
    second.config.write_text(edited.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    assert cli.main(["evaluate", "--run", A]) == 2
    assert "was changed after the run began" in capsys.readouterr().err
    second.config.write_text(edited)

    with Path("data/splits/test.jsonl").open("a") as file:
        file.write("\n")
    assert cli.main(["evaluate", "--run", A]) == 2
    assert "isn't what prepare wrote" in capsys.readouterr().err
    assert cli.main(["train", "--config", "small.yaml"]) == 2


def test_damage_is_told_before_anything_is_loaded(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = Path("models").iterdir()
    weights = model / "model.safetensors"
    weights.rename(model / "elsewhere")
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    assert "model.safetensors is missing" in capsys.readouterr().err
    assert not Path("runs").exists()
    (model / "elsewhere").rename(weights)

    prepared.write_text(prepared.read_text().replace("max_length: 128", "max_length: 32"))
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    err = capsys.readouterr().err
    assert "longer than training.max_length (32 tokens" in err
    assert "row-" in err
    assert not Path("runs").exists()


def test_rows_that_are_too_long_are_left_out_only_when_asked(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Path("data/raw/rows.jsonl")
    long = {"role": "user", "content": "light " * 200}
    answer = {"role": "assistant", "content": "{}"}
    with raw.open("a") as file:
        file.write(json.dumps({"id": "long", "messages": [long, answer], "meta": {"split": "train"}}) + "\n")
    prepared.write_text(prepared.read_text().replace("test_fraction: 0.2}", "test_fraction: 0.2, on_overflow: drop}"))
    run("prepare", "--config", "small.yaml", "--replace")
    run("train", "--config", "small.yaml", "--run-id", A, "--set", "training.max_steps=1")
    assert "1 rows of train are left out, longer than 128 tokens: long" in capsys.readouterr().err
    facts = json.loads((Path("runs") / A / "manifest.json").read_text())["data"]["train"]
    assert facts["rows_too_long"] == ["long"]


def test_a_merge_that_lost_the_adapter_fails_and_only_the_adapter_is_left(
    prepared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", "--config", "small.yaml", "--run-id", A)
    from peft.tuners.lora import LoraLayer

    monkeypatch.setattr(
        LoraLayer, "get_delta_weight", lambda self, name: self.base_layer.weight.new_zeros(()), raising=False
    )
    import peft.tuners.lora.bnb as bnb

    monkeypatch.setattr(bnb.Linear4bit, "get_delta_weight", lambda self, name: __import__("torch").zeros(()))
    assert cli.main(["export", "--run", A, "--merge"]) == 2
    assert "the adapter isn't in model.layers.0" in capsys.readouterr().err
    export = Path("runs") / A / "export"
    assert sorted(p.name for p in export.iterdir()) == ["adapter", "export.json"]
    assert list(json.loads((export / "export.json").read_text())["artefacts"]) == ["adapter"]


def test_a_step_that_is_no_number_stops_before_it_is_made(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ruinous = ("learning_rate=1e30", "lr_scheduler_type=constant", "warmup_steps=0", "save_steps=1", "eval_steps=0")
    given = [word for key in ruinous for word in ("--set", f"training.{key}")]
    assert cli.main(["train", "--config", "small.yaml", "--run-id", A, *given]) == 2
    stopped = RunDir(Path("runs") / A)
    found = json.loads(stopped.not_finite.read_text())
    said = capsys.readouterr().err
    assert f"error: step {found['step']}: the loss is nan" in said
    assert f"in it were {len(found['rows'])} rows: {found['rows'][0]}, " in said
    rows = {json.loads(line)["id"] for line in Path("data/splits/train.jsonl").read_text().splitlines()}
    assert set(found["rows"]) <= rows
    assert Checkpoints(stopped.checkpoints).steps()[-1] == found["step"] - 1
    assert f"The checkpoint of step {found['step'] - 1} is from before" in said
    assert [line["step"] for line in lines(stopped.metrics)] == list(range(1, found["step"]))
    assert not stopped.adapter.exists()


@pytest.fixture
def small_runs(prepared: Path) -> Iterator[Path]:
    """runs/ on a file system of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    runs = Path("runs").absolute()
    runs.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", runs], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"can't mount a tmpfs here: {made.stderr.decode().strip()}")
    yield runs
    subprocess.run(["umount", "--lazy", runs], check=True)  # a failed test leaves files open


def test_a_disk_that_fills_up_while_a_checkpoint_is_saved_loses_nothing(
    small_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", "--config", "small.yaml", "--run-id", A)
    adapter = sha256_file(RunDir(small_runs / A).adapter / "adapter_model.safetensors")
    saving = Checkpoints.saving

    def saving_on_a_full_disk(self: Checkpoints, step: int, order: str) -> Any:
        if step == 4:
            free = shutil.disk_usage(small_runs).free
            (small_runs / "others").write_bytes(bytes(free - 20_000))
        return saving(self, step, order)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "saving", saving_on_a_full_disk)
        assert cli.main(["train", "--config", "small.yaml", "--run-id", B]) == 2
    said = capsys.readouterr().err
    assert f"error: the disk is full: runs/{B} couldn't be written, and step 4 isn't saved. " in said
    assert f"`invoke train --resume {B}`; the checkpoint of step 2 is whole" in said
    stopped = RunDir(small_runs / B)
    assert [p.name for p in stopped.checkpoints.iterdir()] == ["step-000002"]

    # With the disk still full there is no point in loading and training.
    assert cli.main(["train", "--resume", B]) == 2
    assert "free, and 2 checkpoints and the adapter take" in capsys.readouterr().err
    (small_runs / "others").unlink()
    run("train", "--resume", B)
    assert sha256_file(stopped.adapter / "adapter_model.safetensors") == adapter


def test_without_val_rows_nothing_is_evaluated_on_the_way(prepared: Path) -> None:
    prepared.write_text(prepared.read_text().replace("val_fraction: 0.15", "val_fraction: 0.0"))
    run("prepare", "--config", "small.yaml", "--replace")
    run("train", "--config", "small.yaml", "--run-id", A, "--set", "training.max_steps=3")
    outcome = RunDir(Path("runs") / A).finished()[1]
    assert outcome.eval_loss is None
    assert outcome.steps == 3


def test_target_modules_that_the_model_lacks_are_named(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--set", "lora.target_modules=[q_proj, c_attn]")
    assert cli.main(["train", "--config", "small.yaml", *given]) == 2
    assert "no linear layer named c_attn (the output head is none). It has down_proj, " in capsys.readouterr().err


def test_another_split_has_a_report_of_its_own(prepared: Path) -> None:
    run("train", "--config", "small.yaml", "--run-id", A, "--set", "training.max_steps=1")
    run("evaluate", "--run", A)
    run("evaluate", "--run", A, "--split", "val")
    folder = Path("runs") / A
    assert json.loads((folder / "eval_report.json").read_text())["split"] == "test"
    assert json.loads((folder / "eval_report.val.json").read_text())["split"] == "val"
    assert (folder / "predictions.val.jsonl").is_file()


def test_a_template_that_is_edited_later_doesnt_change_a_finished_run(prepared: Path, tiny_model: Path) -> None:
    own = Path("own.jinja")
    own.write_text((tiny_model / "chat_template.jinja").read_text())
    run("train", "--config", "small.yaml", "--run-id", A, "--set", "model.chat_template_path=own.jinja")
    own.write_text("{{ raise_exception('not this one') }}")
    run("evaluate", "--run", A)
    run("export", "--run", A, "--merge")
    merged = Path("runs") / A / "export" / "merged" / "chat_template.jinja"
    assert merged.read_text() == (tiny_model / "chat_template.jinja").read_text()


def test_weights_that_were_changed_in_place_are_noticed(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (weights,) = Path("models").glob("*/model.safetensors")
    with weights.open("r+b") as file:
        file.seek(-8, 2)
        file.write(bytes(8))
    assert cli.main(["train", "--config", "small.yaml"]) == 2
    assert "model.safetensors was changed" in capsys.readouterr().err


def test_activation_checkpointing_changes_no_adapter(prepared: Path) -> None:
    few = ("--set", "training.max_steps=2")
    run("train", "--config", "small.yaml", "--run-id", A, *few)
    run("train", "--config", "small.yaml", "--run-id", B, *few, "--set", "training.activation_checkpointing=true")
    first, second = (json.loads((Path("runs") / r / "manifest.json").read_text())["outcome"] for r in (A, B))
    assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-3)


def test_plan_refuses_what_train_would_refuse(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--config", "small.yaml", "--set", "training.max_length=16"]) == 2
    assert "train would refuse them" in capsys.readouterr().err


def test_settings_without_a_config_are_refused(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--resume", "latest", "--set", "training.max_steps=20"]) == 2
    assert "--set goes with --config" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_four_scripts_take_raw_rows_to_a_merged_model(prepared: Path) -> None:
    """The acceptance list's own doors, each in a process of its own as a user starts it."""
    shutil.rmtree("data/splits")
    scripts = Path(__file__).parent.parent.parent / "scripts"
    for argv in (
        ["prepare_dataset.py", "--config", "small.yaml"],
        ["train_sft.py", "--config", "small.yaml", "--set", "training.max_steps=2"],
        ["evaluate.py", "--run", "latest"],
        ["export_merge_adapter.py", "--run", "latest", "--merge"],
    ):
        done = subprocess.run(
            [sys.executable, scripts / argv[0], *argv[1:]], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert all(Path(f"data/splits/{split}.jsonl").stat().st_size for split in ("train", "val", "test"))
    (run_path,) = (path for path in Path("runs").iterdir() if path.is_dir())
    report = json.loads((run_path / "eval_report.json").read_text())
    assert {"loss", "perplexity"} <= report["adapter"].keys()
    assert (run_path / "export" / "merged" / "model.safetensors").is_file()
