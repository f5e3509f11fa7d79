"""metrics.jsonl once more, as TensorBoard reads it; beside it, without torch."""

from __future__ import annotations

import calendar
import io
import time
from collections.abc import Iterable, Mapping
from typing import Any

from solotune.artifacts.run_dir import RunDir


class EventFile:
    """The run's event file: what its metrics.jsonl says, line for line.

    Each process of the run writes one from the beginning, and those before it stay: a TensorBoard that watches goes on
    to the next file when it comes to the end of one, or to a record that a kill cut in half, and never leaves a file
    that was deleted (`tensorboard/backend/event_processing/directory_watcher.py`).
    """

    def __init__(self, run: RunDir, lines: Iterable[Mapping[str, Any]]) -> None:
        """`lines` are those that metrics.jsonl has already."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._path = run.new_event_file()
        # Lines have no clock, only the seconds of their steps: "relative" in TensorBoard is time spent training.
        self._clock = _start(run.run_id)
        restart = SessionLog(status=SessionLog.START)  # TensorBoard forgets what the files before said
        self._append(Event(wall_time=self._clock, file_version="brain.Event:2"))
        self._append(Event(wall_time=self._clock, step=0, session_log=restart))
        for line in lines:
            self.write(line)

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds a line of metrics.jsonl; what isn't a number in it is left out."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {key: value for key, value in line.items() if key != "step" and isinstance(value, int | float)}
        self._clock += numbers.get("seconds", 0)
        values = [Summary.Value(tag=_tag(key), simple_value=value) for key, value in numbers.items()]
        self._append(Event(step=line["step"], wall_time=self._clock, summary=Summary(value=values)))

    def _append(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()  # upstream writes a record in four pieces, and a kill may come between two
        RecordWriter(record).write(event.SerializeToString())
        with self._path.open("ab") as file:
            file.write(record.getvalue())


def _tag(key: str) -> str:
    """As transformers' own TensorBoard callback names them: `train/loss`, `eval/loss`."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def _start(run_id: str) -> float:
    """When the run began, seconds since 1970."""
    try:
        return float(calendar.timegm(time.strptime(run_id[:15], "%Y%m%d-%H%M%S")))
    except ValueError:  # digits that are no date
        return 0.0
