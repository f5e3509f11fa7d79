"""A stage in a process of its own.

Each stage so gets its memory back, its own environment (only fetch has a network) and a clean state of the libraries.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from solotune import known_errors
from solotune.errors import Interrupted, SolotuneError
from solotune.signals import asked_to_end, came_from_terminal


class StageFailed(SolotuneError):
    """A stage ended with an error, which it has printed.

    Args:
        name: of the stage.
        exit_code: its own, or 128 + n after signal n.
        afterwards: what to do once the cause is gone.
    """

    def __init__(self, name: str, exit_code: int, afterwards: str) -> None:
        # What ends a stage from outside leaves it no time to say why.
        known = known_errors.explain("", exit_code)
        super().__init__(
            f"{name} failed" + (f" with exit code {exit_code}: {known.cause}" if known else ""),
            (f"{known.fix}\n" if known else "") + afterwards,
        )
        self.exit_code = exit_code


def run_stage(command: Sequence[str], afterwards: str = "") -> None:
    """Runs `solotune COMMAND` to its end; signals that come here reach it.

    Raises:
        Interrupted: it was stopped, and has said what to do.
        StageFailed: it ended with an error.
    """
    # -P: the current folder must not shadow a package (scripts/evaluate.py and `evaluate`).
    code, stopped = _to_its_end([sys.executable, "-P", "-m", "solotune", *command])
    if code < 0 and -code in _ENDING:  # it had no time to say anything
        raise Interrupted(f"{command[0]} was stopped at its start or very end. {afterwards}", 128 - code)
    code = 128 - code if code < 0 else code  # ended by a signal: as a shell tells it
    if code - 128 in _ENDING:
        raise Interrupted("", code)
    if code == 0 and stopped:
        raise Interrupted(f"{command[0]} had come to its end; nothing was begun after it", 128 + stopped)
    if code != 0:
        raise StageFailed(command[0], code, afterwards)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _to_its_end(command: Sequence[str]) -> tuple[int, int]:
    """Runs a program and passes signals on to it, from before its first moment to its last.

    Returns:
        Its exit code, negative: the signal; and the signal that came here, or 0.
    """
    early: list[int] = []
    came: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)
        if not started:
            early.append(number)
        elif not came_from_terminal(number):
            started[0].send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in [signal.SIGINT, *asked_to_end()]}
    try:
        started.append(process := subprocess.Popen(command))
        for number in early:
            process.send_signal(number)
        return process.wait(), came[-1] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
