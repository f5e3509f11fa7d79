"""Kill -9 at random moments of a real training; resumed, it must end with the adapter of one that nobody disturbed.

    python tests/faults/kills.py --config configs/smoke.yaml --set training.max_steps=6 --kills 50 --json found.json

Every training is the command that users start, in a process of its own. The moment is drawn from the whole of an
undisturbed run: imports, loading, steps, evaluations, saves, the last manifest; with --late, a share of the moments
from what comes after the first save alone. A resume may be killed, too (--again, its chance).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT)]

from tests.faults.whole import broken  # noqa: E402

RUN = "20260101-000000-kill-aaaaaa"


def main() -> int:
    """Prints a line a kill; exit code 1 when one ended otherwise than the undisturbed training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--again", type=float, default=0.2, help="chance that a resume is killed, too")
    parser.add_argument("--late", type=float, default=0.5, help="share of kills after the first save")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="where to write what was found")
    arguments = parser.parse_args()
    given = ["--config", arguments.config, *(word for one in arguments.set for word in ("--set", one))]
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        chances = Chances(arguments.again, arguments.late)
        found = kill_and_resume(Path(folder), given, arguments.kills, chances, arguments.seed)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")
    equal = sum(kill["equal"] for kill in found["kills"])
    from_checkpoint = sum(any(kill["resumed_from"]) for kill in found["kills"])
    print(f"{from_checkpoint} went on from a checkpoint")
    print(f"{equal} of {len(found['kills'])} ended with the adapter of the undisturbed training, {found['adapter']}")
    return 0 if equal == len(found["kills"]) else 1


@dataclass(frozen=True)
class Chances:
    """That a resume is killed, too; and that a kill comes after the first save."""

    again: float
    late: float


def kill_and_resume(folder: Path, given: Sequence[str], kills: int, chances: Chances, seed: int) -> dict[str, Any]:
    """The undisturbed training first, then `kills` disturbed ones, in a workspace with runs/ of its own."""
    for name in ("configs", "data", "models"):
        (folder / name).symlink_to(Path(name).absolute())
    start = time.monotonic()
    first = _undisturbed(folder, given)
    whole = time.monotonic() - start
    expected = _adapter(folder)
    draw = random.Random(seed)
    found = []
    for number in range(kills):
        after = _kill(folder, given, draw, first if draw.random() < chances.late else 0.0, whole)
        began = _manifest(folder).exists()
        wrong = broken(folder)
        resumes = []
        while began and _outcome(folder) is None:
            moment = draw.uniform(0, whole) if draw.random() < chances.again and len(resumes) < 3 else None
            _train(folder, ["train", "--resume", RUN], moment)
            resumes.append(moment)
        if not began:  # killed before there was anything to go on with
            shutil.rmtree(folder / "runs", ignore_errors=True)
            _train(folder, ["train", *given, "--run-id", RUN], None)
        manifest = json.loads(_manifest(folder).read_text())
        kill = {
            "after": round(after, 2),
            "resumed_from": [resume["from_step"] for resume in manifest["resumes"]],
            "set_aside": [what for resume in manifest["resumes"] for what in resume["set_aside"]],
            "killed_resumes": sum(moment is not None for moment in resumes),
            "wrong": wrong,
            "equal": _adapter(folder) == expected and not wrong and not broken(folder),
        }
        found.append(kill)
        print(number + 1, kill, flush=True)
    return {"adapter": expected, "seconds_undisturbed": round(whole, 1), "given": list(given), "kills": found}


def _undisturbed(folder: Path, given: Sequence[str]) -> float:
    """Trains, and returns the seconds until the first checkpoint was there; 0 without one."""
    start, saved = time.monotonic(), 0.0
    with (folder / "log").open("w") as out:
        command = [sys.executable, "-P", "-m", "solotune", "train", *given, "--run-id", RUN]
        with subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                if not saved and list(folder.glob(f"runs/{RUN}/checkpoints/step-*")):
                    saved = time.monotonic() - start
                time.sleep(0.05)
    assert process.returncode == 0, (folder / "log").read_text()[-3000:]
    return saved


def _kill(folder: Path, given: Sequence[str], draw: random.Random, earliest: float, whole: float) -> float:
    """Kills a training at a random moment; one that was over by then doesn't count. Returns the seconds it lived."""
    while True:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        after = draw.uniform(earliest, whole)
        start = time.monotonic()
        if _train(folder, ["train", *given, "--run-id", RUN], after):
            if earliest and (not _manifest(folder).exists() or _outcome(folder) is not None):
                continue  # nothing is left to go on with: it says nothing about a resume
            return after
        # The machine is quicker than it was for the undisturbed one.
        took = time.monotonic() - start
        earliest, whole = earliest * took / whole, took


def _train(folder: Path, command: Sequence[str], kill_after: float | None) -> bool:
    """Runs solotune with its runs in `folder`; returns whether it was killed."""
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "solotune", *command],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    assert process.returncode == 0, log.read_text()[-3000:]
    return False


def _manifest(folder: Path) -> Path:
    return folder / "runs" / RUN / "manifest.json"


def _outcome(folder: Path) -> Any:
    return json.loads(_manifest(folder).read_text())["outcome"]


def _adapter(folder: Path) -> str:
    return str(_outcome(folder)["adapter"]["adapter_model.safetensors"]["sha256"])


if __name__ == "__main__":
    sys.exit(main())
