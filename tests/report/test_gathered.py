"""A run is read as far as it can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.report.demo import make_run

from solotune.artifacts.lock import held
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.splits_dir import SplitsDir
from solotune.report.gathered import LogLine, flat, gather, read_log


def test_a_whole_run_is_read_without_a_problem(runs: Path) -> None:
    run = gather(make_run(runs, steps=60, rows=5))
    assert run.problems == []
    assert run.state == "exported"
    assert run.name == "home"
    assert run.settings["lora.r"] == 16
    assert run.splits is not None
    assert len([line for line in run.log if line.loss is not None]) == 60


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"exported": False}, "evaluated"),
        ({"exported": False, "evaluated": False}, "trained"),
        ({"exported": False, "evaluated": False, "finished": False}, "unfinished"),
    ],
)
def test_the_state_is_how_far_it_came(runs: Path, changes: dict[str, bool], state: str) -> None:
    assert gather(make_run(runs, steps=3, rows=2, **changes)).state == state


def test_a_run_whose_process_is_alive_is_running(runs: Path) -> None:
    run_dir = make_run(runs, steps=3, finished=False, evaluated=False, exported=False)
    with held(run_dir.path, f"train (run {run_dir.run_id})"):
        assert gather(run_dir).state == "running"
    with held(run_dir.path, f"verify --run {run_dir.run_id}"):
        assert gather(run_dir).state == "unfinished"
    with held(run_dir.path, "report", shared=True):
        assert gather(run_dir).state == "unfinished"


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "config.yaml", "metrics.jsonl", "eval_report.json", "export/export.json", "not_finite.json"],
)
@pytest.mark.parametrize("contents", [b"", b"{", b"\xff\xfe\x00", b'{"schema_version": 7}', b"[" * 100_000, b"[1]"])
def test_a_damaged_file_hides_no_other(runs: Path, name: str, contents: bytes) -> None:
    run_dir = make_run(runs, steps=3, rows=2)
    (run_dir.path / name).write_bytes(contents)
    run = gather(run_dir)
    assert run.log or name == "metrics.jsonl"
    assert (run.manifest is None) == (name == "manifest.json")
    assert (run.exported is None) == (name == "export/export.json")


def test_an_empty_folder_is_damaged_and_no_error(runs: Path) -> None:
    run_dir = RunDir(runs / "20261123-214205-home-a2dbe2")
    run_dir.path.mkdir()
    run = gather(run_dir)
    assert run.state == "damaged"
    assert run.problems == [
        f"{run_dir.path} is unfinished: manifest.json is missing",
        f"{run_dir.path / 'config.yaml'} is missing",
    ]


def test_a_ledger_of_other_rows_isnt_this_runs(runs: Path) -> None:
    run_dir = make_run(runs, steps=3, rows=2)
    splits = SplitsDir(Path("data/splits"))
    found = json.loads(splits.manifest_path.read_text())
    found["outputs"]["train.jsonl"]["sha256"] = "0" * 64
    splits.manifest_path.write_text(json.dumps(found))
    assert gather(run_dir).splits is None
    splits.manifest_path.unlink()
    assert gather(run_dir).splits is None


def test_the_log_leaves_out_what_is_damaged_and_of_two_lines_of_a_step_takes_the_later(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 2, "loss": 1.5}\n{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n{"step": 2, "eval_loss": 0.7}\n'
        '{"step": 2, "loss": 1.25, "later": "field"}\n{"step": 3, "lo'
    )
    assert read_log(path) == (
        [LogLine(1, loss=2.0), LogLine(2, loss=1.25), LogLine(2, eval_loss=0.7)],
        2,
    )
    assert read_log(tmp_path / "none") == ([], 0)


def test_settings_are_flat_and_an_empty_section_stays_one() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 2}, "e": {}}}) == {"a": 1, "b.c.d": 2, "b.e": {}}
    assert flat([1]) == {}
