"""Kill -9 at random moments of the smoke training, shortened; `kills.py` says how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_kill_9_anywhere_and_a_resume_end_with_the_same_adapter() -> None:
    if not list((ROOT / "data" / "splits" / "smoke").glob("manifest.json")) or not list((ROOT / "models").glob("*")):
        pytest.skip("`scripts/local.sh smoke` first: it brings the model and the splits")
    kills = os.environ.get("SOLOTUNE_KILLS", "3")
    short = ["training.max_steps=6", "training.save_steps=2", "training.eval_steps=3", "lora.lora_dropout=0.1"]
    given = [word for setting in short for word in ("--set", setting)]
    command = [sys.executable, "tests/faults/kills.py", "--config", "configs/smoke.yaml", *given, "--kills", kills]
    environment = {**os.environ, "SOLOTUNE_MODELS": "models"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    assert f"{kills} of {kills} ended with the adapter of the undisturbed training" in done.stdout
