"""Docker's client as a process: what it says is passed on as it comes, and explained when it fails."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 16_384


def run_explained(command: Sequence[str], variables: Mapping[str, str], stdin: str | None = None) -> int:
    return wait(start(command, variables, stdin=stdin))


def start(
    command: Sequence[str], variables: Mapping[str, str], *, stdin: str | None = None, apart: bool = False
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE if stdin is not None else None,
        stderr=subprocess.PIPE,
        start_new_session=apart,
        bufsize=0,
    )
    if stdin is not None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended before it read, and says why
            process.stdin.write(stdin.encode())
        process.stdin.close()
    return process


def wait(process: subprocess.Popen[bytes]) -> int:
    """Passes the error stream on as it comes, and explains its end when the command failed."""
    assert process.stderr is not None
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(process.stderr, tail), daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=5)
    process.stderr.close()
    code = code if code >= 0 else 128 - code
    if code not in (0, 130, 143):
        explain(tail.decode(errors="replace"), code)
    return code


def _pass_on(stream: IO[bytes], tail: bytearray) -> None:
    while chunk := os.read(stream.fileno(), 65_536):
        with suppress(BrokenPipeError):  # `2>&1 | tee log`, and Ctrl-C has ended tee
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
        tail += chunk
        del tail[:-_TAIL]


def explain(text: str, code: int) -> None:
    sys.path.insert(0, str(ROOT / "src"))
    try:
        from solotune import known_errors
    finally:
        sys.path.pop(0)
    found = known_errors.explain(text, code) if code else None
    if found and found.fix not in text:  # the stage itself may have said it
        with suppress(BrokenPipeError):
            print(f"{found.cause}\n  fix: {found.fix}", file=sys.stderr)


def output(command: Sequence[str]) -> str | None:
    """What a command prints; None when it fails or isn't there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def print_command(command: Sequence[str], variables: Mapping[str, str]) -> None:
    print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *command]))
