"""A real server, asked over HTTP, on the event files that training writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest

from solotune.artifacts.run_dir import RunDir
from solotune.modeling.event_file import EventFile

_ENOUGH = 60.0  # seconds until something shows; 4 on an idle machine
# Started from a shell's background job, it would ignore Ctrl-C as that does.
_MAIN = """
import signal, sys
from solotune.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""
_open = build_opener(ProxyHandler({})).open


class Board:
    """`solotune tensorboard` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.runs, self._errors = folder / "runs", folder / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, "tensorboard", "--port", "0"],
                cwd=folder,
                env=os.environ | {"SOLOTUNE_COMMAND": "invoke"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout
        self.said = self.process.stdout.readline()
        self._url = self.said.split()[0]

    def run(self, run_id: str, *lines: dict[str, Any]) -> EventFile:
        """Makes a run with these lines in its log; the event file that training goes on with."""
        (self.runs / run_id).mkdir(parents=True, exist_ok=True)
        return EventFile(RunDir(self.runs / run_id), lines)

    def get(self, path: str, **query: str) -> Any:
        with _open(f"{self._url}/data/plugin/scalars/{path}?{urlencode(query)}", timeout=_ENOUGH) as answer:
            return json.loads(answer.read())

    def points(self, run: str, tag: str = "train/loss") -> list[tuple[int, float]]:
        """Step and value."""
        if tag not in self.get("tags").get(run, {}):
            return []
        return [(step, value) for _, step, value in self.get("scalars", run=run, tag=tag)]

    def errors(self) -> list[str]:
        return self._errors.read_text().splitlines()

    def end(self, number: int) -> int:
        """The exit code after this signal."""
        self.process.send_signal(number)
        return self.process.wait(timeout=5)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Board]]:
    boards = []

    def begin() -> Board:
        (tmp_path / str(len(boards))).mkdir()
        boards.append(Board(tmp_path / str(len(boards))))
        return boards[-1]

    yield begin
    for board in boards:
        _close(board)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """One that starts without a run: each test brings its own."""
    board = Board(tmp_path_factory.mktemp("board"))
    yield board
    _close(board)


def _close(board: Board) -> None:
    board.process.kill()
    board.process.wait()
    assert board.process.stdout
    board.process.stdout.close()


def _line(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "loss": loss}


def _until(wanted: Any, look: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _ENOUGH
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert found == wanted


def test_without_runs_it_says_so_and_waits_for_them(board: Board) -> None:
    assert board.said.startswith("http://127.0.0.1:")
    assert "Ctrl-C" in board.said
    assert board.process.stdout
    assert board.process.stdout.readline().startswith("no runs yet")
    assert board.get("tags") == {}


def test_a_run_shows_with_transformers_tags_and_seconds_of_training(board: Board) -> None:
    lines = [
        {"step": 1, "epoch": 0.25, "loss": 4.5, "learning_rate": None, "grad_norm": 2.5, "tokens": 90, "seconds": 10.0},
        {"step": 2, "epoch": 0.5, "loss": 3.5, "learning_rate": 0.125, "grad_norm": 1.5, "tokens": 80, "seconds": 5.0},
        {"step": 2, "eval_loss": 3.75},
        {"step": 3, "loss": float("nan"), "seconds": 5.0},
    ]
    run = "20260101-000000-values-aaaaaa"
    board.run(run, *lines)
    _until([(1, 4.5), (2, 3.5), (3, "NaN")], lambda: board.points(run))
    tags = {"train/epoch", "train/loss", "train/learning_rate", "train/grad_norm", "train/tokens", "train/seconds"}
    assert board.get("tags")[run].keys() == tags | {"eval/loss"}
    assert board.points(run, "train/learning_rate") == [(2, 0.125)]
    assert board.points(run, "eval/loss") == [(2, 3.75)]
    start = 1767225600  # 2026-01-01
    clock = [wall for wall, _, _ in board.get("scalars", run=run, tag="train/loss")]
    assert clock == [start + 10, start + 15, start + 20]


def test_lines_show_as_they_are_written(board: Board) -> None:
    run = "20260101-000000-live-aaaaaa"
    events = board.run(run, _line(1, 4.5))
    _until([(1, 4.5)], lambda: board.points(run))
    events.write(_line(2, 3.5))
    events.write(_line(3, 2.5))
    _until([(1, 4.5), (2, 3.5), (3, 2.5)], lambda: board.points(run))


def test_what_a_resume_took_back_is_gone(board: Board) -> None:
    run = "20260101-000000-resumed-aaaaaa"
    board.run(run, *(_line(step, 4.5) for step in range(1, 6)))
    _until(5, lambda: len(board.points(run)))
    board.run(run, _line(1, 4.5)).write(_line(2, 1.5))
    _until([(1, 4.5), (2, 1.5)], lambda: board.points(run))


def test_a_record_that_a_kill_cut_is_passed_over(board: Board) -> None:
    run = "20260101-000000-killed-aaaaaa"
    board.run(run, _line(1, 4.5), _line(2, 3.5))
    (file,) = (board.runs / run).glob("*tfevents*")
    os.truncate(file, file.stat().st_size - 5)
    _until([(1, 4.5)], lambda: board.points(run))
    board.run(run, _line(1, 4.5)).write(_line(2, 1.5))
    _until([(1, 4.5), (2, 1.5)], lambda: board.points(run))
    assert board.errors() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once(start: Callable[[], Board], number: int, code: int) -> None:
    board = start()
    assert board.end(number) == code
    assert board.errors() == []


def test_a_port_in_use_is_one_line_with_the_fix(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "solotune", "tensorboard", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ENOUGH)
    assert done.returncode == 2
    assert done.stderr == f"error: port {port} is in use. Choose another one: --port {port + 1}\n"
    assert done.stdout == ""


@pytest.mark.parametrize("wrong", [["--port", "99999"], ["--host", "192.0.2.1"]])
def test_an_address_that_cannot_be_served_is_one_line(workspace: Path, wrong: list[str]) -> None:
    command = [sys.executable, "-m", "solotune", "tensorboard", *wrong]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ENOUGH)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: can't listen on ")
    assert wrong[1] in line


def test_tensorboard_and_torch_arent_loaded_before_they_are_needed() -> None:
    code = "import sys, solotune.stages.tensorboard; assert not {'tensorboard', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
