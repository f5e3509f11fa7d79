"""invoke report, invoke runs: through the command line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from tests.report.demo import make_run

from solotune import cli
from solotune.artifacts.lock import held

A, B = "20261123-214205-home-a2dbe2", "20261124-214205-home-b2dbe2"


@pytest.fixture
def runs(workspace: Path) -> Path:
    make_run(Path("runs"), A, steps=3, rows=3)
    make_run(Path("runs"), B, steps=3, finished=False, evaluated=False, exported=False)
    return Path("runs")


def test_one_run_gets_its_page_and_the_index_is_written(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--run", A[:8]]) == 0
    out = capsys.readouterr().out
    assert f"page of the run: runs/{A}/report.html" in out
    assert "page of all runs: runs/index.html" in out
    assert (runs / A / "report.html").is_file()
    assert not (runs / B / "report.html").exists()


def test_all_runs_get_one_and_only_what_changed_is_written_again(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report"]) == 0
    assert "2 pages of runs written, 0 as they were" in capsys.readouterr().out
    os.utime(runs / B / "metrics.jsonl", ns=(0, (runs / B / "report.html").stat().st_mtime_ns + 1))
    assert cli.main(["report"]) == 0
    assert "1 page of runs written, 1 as they were" in capsys.readouterr().out


def test_a_page_that_cant_be_written_keeps_no_other_from_its_own(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / A / "report.html").mkdir()
    assert cli.main(["report"]) == 0
    said = capsys.readouterr()
    assert f"warning: the page of runs/{A} couldn't be written: " in said.err
    assert "1 page of runs written" in said.out
    assert (runs / B / "report.html").is_file()


def test_what_a_kill_left_goes_unless_somebody_is_at_work_there(runs: Path) -> None:
    page, models = runs / A / ".staged-report.html.1-abcd", runs / A / "export" / ".staged-scratch.1-abcd"
    page.write_text("half")
    models.mkdir(parents=True)
    with held(runs / A, "train"):
        assert cli.main(["report", "--run", A]) == 0
    assert page.exists()
    assert models.exists()
    assert cli.main(["report"]) == 0
    assert not page.exists()
    assert not models.exists()


def test_a_run_that_isnt_there_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--run", "nope"]) == 2
    assert "no run begins with 'nope'" in capsys.readouterr().err


def test_without_runs_there_is_an_index_of_none(workspace: Path) -> None:
    assert cli.main(["report"]) == 0
    assert Path("runs/index.html").is_file()


def test_runs_tells_the_living_from_the_unfinished(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs"]) == 0
    assert f"{B}  unfinished" in capsys.readouterr().out
    with held(runs / B, f"train (run {B})"):
        assert cli.main(["runs"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"{B} +running", out)
    assert re.search(rf"{A} +exported", out)


def test_runs_tells_how_far_an_unfinished_one_is(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = runs / B / "metrics.jsonl"
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 12)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + "half of a li")
    assert cli.main(["runs"]) == 0
    assert re.search(rf"{B} +unfinished +12 so far", capsys.readouterr().out)
    log.unlink()
    log.mkdir()
    assert cli.main(["runs"]) == 0
    assert re.search(rf"{B} +unfinished *\n", capsys.readouterr().out + "\n")
