"""When pages are written, and that no stage falls with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.report.demo import make_run

from solotune import report
from solotune.artifacts.run_dir import RunDir


@pytest.fixture
def run_dir(runs: Path) -> RunDir:
    return make_run(runs, steps=3, rows=3)


def age(run_dir: RunDir, seconds: int) -> None:
    """Makes all of a run's files older."""
    for path in run_dir.path.rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_a_stage_leaves_the_page_and_the_index(run_dir: RunDir) -> None:
    report.write(run_dir)
    assert run_dir.page.is_file()
    assert run_dir.run_id in (run_dir.path.parent / "index.html").read_text()


def test_a_page_that_cant_be_written_is_one_line_and_no_error(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise KeyError("something\nof ours")

    monkeypatch.setattr("solotune.report.run_page.run_page", broken)
    report.write(run_dir)
    err = capsys.readouterr().err
    assert err == f"warning: the page of {run_dir.path} couldn't be written: KeyError: 'something\\nof ours'\n"


def test_a_page_is_outdated_when_something_is_newer(run_dir: RunDir) -> None:
    assert report.is_outdated(run_dir)
    report.write_run_page(run_dir)
    assert not report.is_outdated(run_dir)
    age(run_dir, 60)
    assert not report.is_outdated(run_dir)
    run_dir.metrics.touch()
    assert report.is_outdated(run_dir)


def test_a_page_of_another_solotune_is_outdated(run_dir: RunDir) -> None:
    page = report.write_run_page(run_dir)
    page.write_text(page.read_text().replace("solotune 0.1.0", "solotune 0.0.9"))
    assert report.is_outdated(run_dir)


def test_the_index_has_a_line_for_each_run_and_links_those_with_a_page(runs: Path) -> None:
    first = make_run(runs, "20261123-214205-home-a2dbe2", steps=3, rows=3)
    make_run(runs, "20261124-214205-home-b2dbe2", steps=3, evaluated=False, exported=False)
    (runs / "20261125-214205-home-c2dbe2").mkdir()
    report.write_run_page(first)
    text = report.write_index(runs).read_text()
    assert text.count("<tr data-run=") == 3
    assert text.count('<a href="2026') == 1
    assert f'<a href="{first.run_id}/report.html">' in text
    found = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [run["id"][-6:] for run in found["runs"]] == ["c2dbe2", "b2dbe2", "a2dbe2"]
    assert found["runs"][2]["settings"]["lora.r"] == "16"


def test_an_index_of_nothing_says_how_to_begin(runs: Path) -> None:
    assert "invoke train --config CONFIG" in report.write_index(runs).read_text()
