"""tasks.py: what each task starts, and that it starts nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tasks
from invoke.context import MockContext
from invoke.exceptions import Exit

ROOT = Path(tasks.__file__).parent


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that the process would have become."""
    found: list[list[str]] = []
    monkeypatch.setenv("SOLOTUNE_RUNTIME", "local")
    monkeypatch.setattr(tasks.os, "execv", lambda program, argv: found.append(list(argv)))
    monkeypatch.chdir(ROOT)
    return found


STAGE = [sys.executable, "-P", "-m", "solotune"]


def test_stages_become_the_command_of_the_same_name(started: list[list[str]]) -> None:
    c = MockContext()
    tasks.fetch(c, "a.yaml", [])
    tasks.prepare(c, "a.yaml", ["seed=1", "device=cpu"], replace=True)
    tasks.plan(c, "a.yaml", [], vram="24")
    tasks.train(c, [], resume="latest")
    tasks.evaluate(c, "latest", split="val")
    tasks.export(c, "latest", merge=True)
    tasks.smoke(c)
    assert started == [
        [*STAGE, "fetch", "--config", "a.yaml"],
        [*STAGE, "prepare", "--config", "a.yaml", "--set", "seed=1", "--set", "device=cpu", "--replace"],
        [*STAGE, "plan", "--config", "a.yaml", "--vram", "24"],
        [*STAGE, "train", "--resume", "latest"],
        [*STAGE, "evaluate", "--run", "latest", "--split", "val"],
        [*STAGE, "export", "--run", "latest", "--merge"],
        [*STAGE, "pipeline", "--config", "configs/smoke.yaml"],
    ]


def test_without_a_runtime_the_way_out_is_told(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOLOTUNE_RUNTIME")
    with pytest.raises(Exit, match=r"scripts/local\.sh"):
        tasks.runs(MockContext())
    assert started == []


def test_clean_only_says_what_it_would_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    tasks.clean(MockContext())
    assert "would delete runs/" in capsys.readouterr().out
    assert (tmp_path / "runs" / "x").is_dir()
    tasks.clean(MockContext(), yes=True)
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "data" / "raw").is_dir()


def test_the_list_reads_like_a_table_of_contents() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "invoke", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    names = [line.split()[0] for line in lines]
    assert {"fetch", "prepare", "plan", "train", "evaluate", "export", "pipeline", "smoke", "test", "lint"} <= set(
        names
    )
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
