"""A stage in a process of its own: how its end is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from solotune.chains.process import StageFailed, run_stage
from solotune.errors import Interrupted

GO_ON = "`invoke train --resume RUN` goes on with it"


def ending(folder: Path, how: str) -> str:
    """A program that stands in for Python and ends in this way."""
    program = folder / "stage"
    program.write_text(f"#!/bin/sh\n{how}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (
            "kill -9 $$",
            137,
            r"^train failed with exit code 137: the system ended .*\n`invoke train --resume RUN` goes on",
        ),
        ("kill -11 $$", 139, r"^train failed with exit code 139: a library crashed inside"),
        ("exit 2", 2, r"^train failed\. `invoke train --resume RUN` goes on"),
        ("kill -6 $$", 134, r"^train failed\. `invoke"),
    ],
)
def test_a_stage_that_a_signal_ended_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, code: int, said: str
) -> None:
    monkeypatch.setattr(sys, "executable", ending(tmp_path, how))
    with pytest.raises(StageFailed, match=said) as caught:
        run_stage(["train"], GO_ON)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(("how", "code"), [("kill -15 $$", 143), ("exit 130", 130)])
def test_a_stage_that_was_stopped_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, code: int
) -> None:
    monkeypatch.setattr(sys, "executable", ending(tmp_path, how))
    with pytest.raises(Interrupted) as caught:
        run_stage(["train"], GO_ON)
    assert caught.value.exit_code == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_chain_alone_reaches_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """As `docker kill` sends it to a container's first process, which has no terminal."""
    monkeypatch.setattr("solotune.chains.process.came_from_terminal", lambda _: False)
    how = f"trap 'exit {code}' INT TERM HUP; kill -{int(number)} $PPID; while :; do sleep 0.05; done"
    monkeypatch.setattr(sys, "executable", ending(tmp_path, how))
    with pytest.raises(Interrupted) as caught:
        run_stage(["train"], GO_ON)
    assert caught.value.exit_code == code


def test_a_stage_that_was_stopped_before_it_could_speak_is_spoken_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", ending(tmp_path, "kill -15 $$"))
    with pytest.raises(
        Interrupted, match=r"^train was stopped at its start or very end\. `invoke train --resume RUN` goes on"
    ):
        run_stage(["train"], GO_ON)


def test_a_signal_that_comes_while_a_stage_starts_stops_that_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = subprocess.Popen

    def at_a_bad_moment(command: list[str]) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        return start(command)

    monkeypatch.setattr(sys, "executable", ending(tmp_path, "exec sleep 60"))
    monkeypatch.setattr("solotune.chains.process.subprocess.Popen", at_a_bad_moment)
    with pytest.raises(Interrupted) as caught:
        run_stage(["train"], GO_ON)
    assert caught.value.exit_code == 143
