"""A fault at every system call with which the stages write; `sweep.py` says how."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_no_fault_at_any_write_loses_anything() -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    # In a process of its own: it forks, which a process whose threads have computed can't.
    # Every tenth case of each kind, others each day; all of them take more than an hour.
    first = os.environ.get("SOLOTUNE_FIRST", str(dt.datetime.now(dt.UTC).toordinal()))
    print(f"SOLOTUNE_FIRST={first} sweeps the same cases again")
    every = int(os.environ.get("SOLOTUNE_EVERY", "10"))
    command = [
        sys.executable,
        str(Path(__file__).parent / "sweep.py"),
        "--every",
        str(every),
        "--first",
        first,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "strace can't attach here" in done.stderr:
        pytest.skip("this machine lets no process trace another")
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    cases = int(done.stdout.splitlines()[-1].split()[0])
    assert cases >= 2400 // every
