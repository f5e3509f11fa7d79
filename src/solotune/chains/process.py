"""A stage in a process of its own.

Each stage so gets its memory back, its own environment (only fetch has a network) and a clean state of the libraries.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

from solotune import known_errors
from solotune.errors import Interrupted, SolotuneError


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
    process, stopped = _started([sys.executable, "-P", "-m", "solotune", *command])
    if stopped:
        process.terminate()
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            stopped = 130  # the terminal has sent it to the stage too, which says what to do
        except Interrupted as stop:
            stopped = stop.exit_code
            process.terminate()  # SIGTERM came to this process alone: the stage saves and stops
    code = 128 - code if code < 0 else code  # ended by a signal: as a shell tells it
    if code in (130, 143):
        raise Interrupted("", code)
    if code == 0 and stopped:
        raise Interrupted(f"{command[0]} had come to its end; nothing was begun after it", stopped)
    if code != 0:
        raise StageFailed(command[0], code, afterwards)


def _started(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    """A new process, and 128 + n where signal n came meanwhile: raised there, it would leave the process to itself."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        return subprocess.Popen(command), 128 + came[0] if came else 0
    finally:
        signal.signal(signal.SIGTERM, before)
