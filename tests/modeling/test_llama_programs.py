from __future__ import annotations

import sys

import pytest

from solotune.errors import MachineError
from solotune.modeling import llama_programs


def test_a_program_that_was_killed_isnt_an_answer_of_it() -> None:
    for name in ("SIGKILL", "SIGTERM"):
        itself = [sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), signal.{name})"]
        with pytest.raises(MachineError, match=rf"ended from outside \({name}\)"):
            llama_programs.run(itself)


def test_what_a_program_says_when_it_fails_is_kept() -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit(sys.stdin.read())"]
    done = llama_programs.run(failing, asked="no such file")
    assert (done.returncode, done.stderr.strip()) == (1, "no such file")
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert llama_programs.run(slow, seconds=1).stderr == "it took more than 1 s"
