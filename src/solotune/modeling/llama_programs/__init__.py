"""llama.cpp's tools, each as a program of its own: what they import, log and abort stays out of ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import solotune
from solotune.errors import MachineError


def command(name: str) -> list[str]:
    """How to start one of the programs of this folder."""
    # -P: a folder `conversion` where the user stands must not be taken for the converter's package of that name.
    return [sys.executable, "-P", "-m", f"{__name__}.{name}"]


def run(program: Sequence[str], asked: str = "", seconds: int = 4 * 3600) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, offline; what it says is kept.

    Args:
        asked: its standard input.
        seconds: after which it has failed: a chat template can loop for ever.

    Raises:
        MachineError: somebody else ended it, which says nothing about what it was asked.
    """
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(Path(solotune.__file__).resolve().parents[1]),  # as in the image, and nothing else
    }
    try:
        done = subprocess.run(
            program,
            input=asked,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=environment,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(list(program), 1, "", f"it took more than {seconds:,} s")
    if -done.returncode in (signal.SIGKILL, signal.SIGTERM):
        raise MachineError(
            f"llama.cpp's program was ended from outside ({signal.Signals(-done.returncode).name}); Linux does so to "
            "what takes most when memory runs out",
            "Free some memory, then run the same command again",
        )
    return done
