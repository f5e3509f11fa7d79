"""tensorboard: the curves of all runs in a browser, live.

metrics.jsonl is all that training writes; it is translated here, into a temporary folder, while somebody looks.
"""

from __future__ import annotations

import calendar
import errno
import json
import logging
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.console import say, warn
from solotune.errors import Interrupted, MachineError

RUNS = Path("runs")
_SECONDS_BETWEEN_LOOKS = 2


def run(host: str, port: int) -> None:
    """Serves until Ctrl-C, which is how it ends; port 0 takes a free one.

    Raises:
        MachineError: the address can't be served.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="solotune-tensorboard-") as folder:
            _serve_and_follow(Path(folder), host, port)
    except KeyboardInterrupt:
        return
    except Interrupted as stop:
        raise Interrupted("", stop.exit_code) from None  # nothing here is left unfinished


def _serve_and_follow(folder: Path, host: str, port: int) -> None:
    known: dict[str, _Curves] = {}
    _look(folder, known)
    say(f'{_serve(folder, host, port)} (Ctrl-C ends it; to see curves grow: "Reload data", behind the gear at the top)')
    if not known:
        say("no runs yet: the first one shows once `invoke train --config CONFIG` has started it")
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        _look(folder, known)


def _look(folder: Path, known: dict[str, _Curves]) -> None:
    for run_id in run_ids(RUNS):
        if run_id not in known:
            known[run_id] = _Curves(RunDir(RUNS / run_id), folder / run_id)
        known[run_id].follow()


class _Curves:
    """One run's metrics.jsonl, and how far it was translated into an event file."""

    def __init__(self, run_dir: RunDir, folder: Path) -> None:
        folder.mkdir()
        self._metrics = run_dir.metrics
        self._events = folder / "events.tfevents"  # the name by which TensorBoard knows an event file
        self._start = _start(run_dir.run_id)
        self._inode = self._offset = self._lines = 0
        self._clock = self._start

    def follow(self) -> None:
        """Translates what is new; all of it where the file was replaced, as a resume does, or got shorter."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            source = self._metrics.open("rb")
        except FileNotFoundError:
            return
        with source, self._events.open("ab") as events:
            records = RecordWriter(events)
            found = os.fstat(source.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._inode, self._offset, self._lines, self._clock = found.st_ino, 0, 0, self._start
                records.write(Event(wall_time=self._start, file_version="brain.Event:2").SerializeToString())
                # From the second one on it makes TensorBoard forget what came before.
                restart = Event(wall_time=self._start, step=0, session_log=SessionLog(status=SessionLog.START))
                records.write(restart.SerializeToString())
            source.seek(self._offset)
            for text in source:
                if not text.endswith(b"\n"):
                    break  # half-written: next time
                self._offset += len(text)
                self._lines += 1
                try:
                    records.write(self._event(json.loads(text)))
                except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
                    warn(f"{self._metrics}, line {self._lines}: damaged, left out")

    def _event(self, line: dict[str, Any]) -> bytes:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        step = line["step"]
        numbers = {key: value for key, value in line.items() if key != "step" and isinstance(value, int | float)}
        # Lines have no clock, only the seconds of their steps: "relative" in TensorBoard is time spent training.
        self._clock += numbers.get("seconds", 0)
        values = [Summary.Value(tag=_tag(key), simple_value=value) for key, value in numbers.items()]
        event: bytes = Event(step=step, wall_time=self._clock, summary=Summary(value=values)).SerializeToString()
        return event


def _tag(key: str) -> str:
    """As transformers' own TensorBoard callback names them: `train/loss`, `eval/loss`."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def _start(run_id: str) -> float:
    """When the run began, seconds since 1970."""
    try:
        return float(calendar.timegm(time.strptime(run_id[:15], "%Y%m%d-%H%M%S")))
    except ValueError:  # digits that are no date
        return 0.0


def _serve(folder: Path, host: str, port: int) -> str:
    """Starts TensorBoard in a thread of its own, which ends with the process; returns its address."""
    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each resume
    board = program.TensorBoard()
    # Its fast loader is a second process, with a port of its own.
    board.configure(logdir=str(folder), host=host, port=port, reload_interval=_SECONDS_BETWEEN_LOOKS, load_fast="false")
    try:
        # Upstream ends the process where it can't listen, so that is tried first.
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
        url: str = board.launch()
    except (OSError, OverflowError, program.TensorBoardServerException) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise MachineError(f"port {port} is in use", f"Choose another one: --port {port + 1}") from None
        raise MachineError(f"can't listen on {host}, port {port}: {error}", "Choose others: --host, --port") from None
    # 0.0.0.0 is where a container listens; it is no address to open.
    return url.rstrip("/").replace("//0.0.0.0", "//127.0.0.1")
