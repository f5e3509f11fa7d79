from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from solotune import console

TALKS = """
import sys, time
from solotune.console import say, warn, Progress
say("first")
sys.stdin.readline()
with Progress("working", 3, "steps") as bar:
    for _ in range(3):
        say("nobody reads this")
        warn("nor this")
        bar.advance()
open(sys.argv[1], "w").write("saved")
"""


def test_a_reader_that_has_gone_ends_no_work(tmp_path: Path) -> None:
    """`train 2>&1 | tee log`: Ctrl-C ends tee, and the checkpoint must be saved all the same."""
    command = [sys.executable, "-c", TALKS, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "saved").read_text() == "saved"


def test_a_terminal_that_was_closed_ends_no_work(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", TALKS, str(tmp_path / "saved")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"first" not in said:
            said += os.read(ours, 1000)
        os.close(ours)
        assert process.stdin
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "saved").read_text() == "saved"


def test_what_an_earlier_process_did_took_none_of_this_ones_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.Progress("training", 241, "steps", 47) as bar:
        clock[0] += 10
        bar.advance(10)
    assert capsys.readouterr().out == "  training: 57 of 241 steps, 1 steps/s, 3 min 04 s left\n"


@pytest.mark.parametrize(
    ("given", "text", "shown"),
    [
        ([], "Run `invoke prepare --config CONFIG`", "Run `invoke prepare --config CONFIG`"),
        (
            ["--config", "configs/a b.yaml"],
            "`invoke plan --config CONFIG`",
            "`invoke plan --config 'configs/a b.yaml'`",
        ),
        (
            ["--config", "c.yaml", "--set", "seed=1"],
            "next: invoke train --config CONFIG",
            "next: invoke train --config c.yaml --set seed=1",
        ),
        (["--config", "runs/x/config.yaml"], "`invoke fetch --config CONFIG`", "`invoke fetch --config CONFIG`"),
        (["--config", "c.yaml"], "`invoke fetch --config CONFIG`", "`invoke fetch --config c.yaml`"),
        ([], "a row says: please invoke the tool", "a row says: please invoke the tool"),
    ],
)
def test_commands_in_messages_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, given: list[str], text: str, shown: str
) -> None:
    monkeypatch.setenv("SOLOTUNE_COMMAND", "./run")
    console.remember_config(given)
    try:
        assert console.as_started(text) == shown.replace("`invoke ", "`./run ").replace("next: invoke", "next: ./run")
    finally:
        console.remember_config([])


def test_numbers_and_nouns_agree() -> None:
    assert [console.counted(n, "forward pass") for n in (1, 2)] == ["1 forward pass", "2 forward passes"]
    assert console.counted(1200, "row") == "1,200 rows"


def test_a_hang_up_asks_to_end_unless_it_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    from solotune.signals import asked_to_end

    assert signal.SIGHUP in asked_to_end()
    monkeypatch.setattr("solotune.signals.signal.getsignal", lambda _: signal.SIG_IGN)
    assert asked_to_end() == [signal.SIGTERM]
