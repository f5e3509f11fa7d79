"""verify and reproduce on a real run, through the command line, each stage in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from solotune import cli
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.chains import reproduce, verify
from solotune.chains.process import run_stage

pytestmark = pytest.mark.slow

A = "20260101-000000-small-aaaaaa"


@pytest.fixture
def trained(small_experiment: Path) -> RunDir:
    for argv in (["fetch"], ["prepare"], ["train", "--run-id", A]):
        assert cli.main([argv[0], "--config", "small.yaml", *argv[1:]]) == 0
    return RunDir(Path("runs") / A)


def test_a_run_is_the_same_made_twice_and_stopped_and_resumed(
    trained: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", "--run", A]) == 0
    found = trained.manifest().verification
    assert found is not None
    assert found.original is not None
    assert (found.rerun.equal, found.resume.equal, found.original.equal) == (True, True, True)
    assert (found.steps, found.resumed_at, found.differs_today) == (4, 2, [])
    assert found.rerun.compared == "order, loss, gradient norm and 112 tensors after each of 4 steps"
    assert not trained.verify.exists()
    out = capsys.readouterr().out
    assert "made twice" in out
    assert cli.main(["evaluate", "--run", A]) == 0, "the run is as whole as before"


def test_trainings_are_cut_as_the_run_was_whatever_is_fastest_today(trained: RunDir) -> None:
    path = trained.manifest_path
    manifest = json.loads(path.read_text())
    manifest["layout"] |= {"sequences": 1, "accumulation": 4}
    path.write_text(json.dumps(manifest))
    assert cli.main(["verify", "--run", A, "--steps", "2"]) in (0, 2)  # the run's own log is of another layout
    found = trained.manifest().verification
    assert found is not None
    assert found.rerun.equal
    assert found.differs_today == []


def test_a_log_that_a_kill_has_cut_is_read_as_far_as_it_goes(trained: RunDir) -> None:
    trained.metrics.write_text(trained.metrics.read_text()[:-20])
    assert cli.main(["verify", "--run", A, "--steps", "2"]) == 0
    found = trained.manifest().verification
    assert found is not None
    assert found.original is not None
    assert found.original.equal


def test_what_differs_is_found_named_kept_and_an_error(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One training of the three has another learning rate."""

    def with_a_difference(command: Sequence[str], afterwards: str = "") -> None:
        if any("again" in word for word in command):
            command = [*command, "--set", "training.learning_rate=0.0101"]
        run_stage(command, afterwards)

    monkeypatch.setattr(verify, "run_stage", with_a_difference)
    assert cli.main(["verify", "--run", A, "--steps", "2"]) == 2
    found = trained.manifest().verification
    assert found is not None
    assert found.resume.equal
    first = found.rerun.first_difference
    assert first is not None
    assert first.step == 2, "the first step warms up, with a learning rate of 0"
    assert first.what.startswith("adapter: ")
    assert f"run {A} isn't the same to the bit: made twice" in capsys.readouterr().err
    assert not trained.verify.exists()


def test_a_run_made_again_is_the_same_to_what_was_exported_as_it_was_asked_for(
    trained: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    """The merge base isn't the one that the figures recommend, the type and the bounds aren't the config's."""
    wide = [word for key in ("max_kl", "max_loss_difference") for word in ("--set", f"export.{key}=100")]
    wide += ["--set", "export.min_greedy_agreement=0.1", "--set", "export.merge_dtype=float16"]
    few = ["--set", "export.proof_examples=5"]
    assert cli.main(["evaluate", "--run", A]) == 0
    assert cli.main(["export", "--run", A, "--merge", "--merge-base", "original", *wide, *few]) == 0
    assert cli.main(["export", "--run", A, "--gguf", "q8_0", *wide]) == 0
    assert cli.main(["reproduce", "--run", A]) == 0
    second = RunDir(Path("runs") / run_ids(Path("runs"))[-1])
    found = second.manifest().reproduction
    assert found is not None
    assert (found.of, found.differs_today) == (A, [])
    assert (found.adapter_equal, found.report_equal, found.export_equal) == (True, True, True)
    assert found.training.equal
    assert "machine, code and libraries are as they were" in capsys.readouterr().out
    record = second.exported()
    assert record is not None
    assert (record.examples, sorted(record.artefacts)) == (5, ["adapter", "gguf-q8_0", "merged", "merged-dequantised"])
    assert (record.artefacts["merged"].merge_base, record.artefacts["merged"].dtype) == ("original", "float16")


def test_another_export_is_an_error_that_says_in_what(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def in_another_type(command: Sequence[str], afterwards: str = "") -> None:
        other = ["--set", "export.merge_dtype=float32"] if command[0] == "export" else []
        run_stage([*command, *other], afterwards)

    assert cli.main(["export", "--run", A, "--merge"]) == 0
    monkeypatch.setattr(reproduce, "run_stage", in_another_type)
    assert cli.main(["reproduce", "--run", A]) == 2
    said = capsys.readouterr()
    assert "exported: merged: stored as float32 instead of bfloat16" in said.out
    assert "exported: merged: model.safetensors is another" in said.out
    assert "the adapter is the same, and not what was exported" in said.err


def test_another_adapter_is_an_error_that_says_what_differs_today(
    trained: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_another_machine(command: Sequence[str], afterwards: str = "") -> None:
        run_stage([*command, "--set", "training.learning_rate=0.0101"], afterwards)

    manifest: dict[str, Any] = json.loads(trained.manifest_path.read_text())
    manifest["environment"]["libraries"]["torch"] = "2.0.0"
    trained.manifest_path.write_text(json.dumps(manifest))
    monkeypatch.setattr(reproduce, "run_stage", on_another_machine)
    assert cli.main(["reproduce", "--run", A]) == 2
    said = capsys.readouterr()
    assert "differs today: libraries.torch: 2.0.0 -> " in said.out
    assert "another adapter came out; the first difference in the log is " in said.err


def test_other_data_is_refused_with_the_command_that_brings_it_back(
    trained: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("data/splits/train.jsonl").open("a") as file:
        file.write("\n")
    assert cli.main(["reproduce", "--run", A]) == 2
    said = capsys.readouterr().err
    assert "train.jsonl has " in said
    assert f"`invoke prepare --config runs/{A}/config.yaml --replace` makes them again" in said
    assert len(run_ids(Path("runs"))) == 1
