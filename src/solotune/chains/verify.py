"""verify: is this run the same when it is made again, and when it is stopped and resumed? To the bit, on this machine.

Three short trainings of the run's config, each in processes of their own: one straight, one more, one that is stopped
in the middle and resumed. After each step every tensor of adapter and optimiser is hashed.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec

from solotune.artifacts.lock import held
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Difference, RunManifest, Verdict, Verification
from solotune.chains.compare import compare_fingerprints, compare_metrics, differs
from solotune.chains.inputs import refuse_other_inputs
from solotune.chains.process import run_stage
from solotune.config.load import load
from solotune.config.schema import RunConfig
from solotune.console import say, stage, table
from solotune.errors import ArtifactError, ProofError

RUNS = Path("runs")


def run(wanted: str, steps: int) -> Verification:
    """Verifies a run; the verdict goes into its manifest.

    Args:
        wanted: run id, unique prefix, or `latest`. It need not have finished.
        steps: optimiser steps of each training; at least 2.

    Raises:
        ArtifactError: there is no such run, or its config, data or base model have changed since.
        ProofError: two trainings differ, with the first differing step and tensor.
    """
    run_dir = RunDir.find(RUNS, wanted)
    with held(run_dir.path, f"verify --run {run_dir.run_id}"):
        manifest = run_dir.manifest()
        path = run_dir.config_of(manifest)
        config = load(path)
        refuse_other_inputs(run_dir, manifest, config, path)
        until = _steps(steps, manifest, config)
        shutil.rmtree(run_dir.verify, ignore_errors=True)
        try:
            straight = _trial(run_dir, path, "straight", until)
            if outcome := straight.manifest().outcome:  # a run of few epochs may have fewer steps than were asked for
                until = _at_least_two(outcome.steps)
            half = until // 2
            again = _trial(run_dir, path, "again", until)
            resumed = _trial(run_dir, path, "resumed", half)
            _resume(run_dir, "resumed", until)
            verification = Verification(
                at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                steps=until,
                resumed_at=half,
                differs_today=differs(manifest, straight.manifest()),
                rerun=compare_fingerprints(straight, again),
                resume=compare_fingerprints(straight, resumed),
                original=_original(run_dir, manifest, straight, until),
            )
        finally:
            shutil.rmtree(run_dir.verify, ignore_errors=True)
        run_dir.write_manifest(msgspec.structs.replace(manifest, verification=verification))
    _tell(run_dir, manifest, verification)
    return verification


def _steps(wanted: int, manifest: RunManifest, config: RunConfig) -> int:
    """No more than the run has; of a run that hasn't finished, as far as its config says."""
    in_all = manifest.outcome.steps if manifest.outcome else max(config.training.max_steps, 0)
    return _at_least_two(min(wanted, in_all) if in_all else wanted)


def _at_least_two(steps: int) -> int:
    if steps < 2:
        raise ArtifactError("the run has one step, which can't be stopped in the middle", "Verify a longer one")
    return steps


def _trial(run_dir: RunDir, config: Path, name: str, until: int) -> RunDir:
    root = run_dir.verify / name
    say(f"── verify: {name}, {until} steps")
    run_stage(
        [
            *("train", "--config", str(config), "--run-id", run_dir.run_id, "--like", run_dir.run_id),
            *("--trial", str(root), "--until", str(until)),
        ],
        _afterwards(run_dir),
    )
    return RunDir(root / run_dir.run_id)


def _resume(run_dir: RunDir, name: str, until: int) -> None:
    say(f"── verify: {name}, on to {until} steps in a new process")
    root = str(run_dir.verify / name)
    run_stage(["train", "--resume", run_dir.run_id, "--trial", root, "--until", str(until)], _afterwards(run_dir))


def _afterwards(run_dir: RunDir) -> str:
    return f"Nothing of the run was touched; run `invoke verify --run {run_dir.run_id}` again once the cause is gone"


def _original(run_dir: RunDir, manifest: RunManifest, trial: RunDir, until: int) -> Verdict | None:
    """The run's own log beside a trial's: the only witness of its first steps."""
    found = compare_metrics(run_dir, trial, until)
    if found and manifest.order_sha256 not in ("", trial.manifest().order_sha256):
        return msgspec.structs.replace(found, equal=False, first_difference=Difference(0, "order of the packs"))
    return found


def _tell(run_dir: RunDir, manifest: RunManifest, verification: Verification) -> None:
    with stage("verify"):
        for what in verification.differs_today:
            say(f"  not as when the run began: {what}")
        for what in manifest.not_covered:
            say(f"  not promised: {what}")
        verdicts = {
            "made twice": verification.rerun,
            f"stopped at step {verification.resumed_at} and resumed": verification.resume,
            "as the run itself": verification.original,
        }
        rows = [[name, *_row(verdict)] for name, verdict in verdicts.items()]
        table(["", "to the bit", "first difference"], rows, f"{run_dir.run_id}: {verification.steps} steps")
        for name, verdict in verdicts.items():
            say(f"  {name}: {verdict.compared if verdict else 'the run logged none of these steps'}")
        say(f"in {run_dir.manifest_path}")
    differing = [name for name, verdict in verdicts.items() if verdict and not verdict.equal]
    if differing:
        why = "; ".join([*manifest.not_covered, *verification.differs_today]) or "the cause isn't known"
        raise ProofError(
            f"run {run_dir.run_id} isn't the same to the bit: {', '.join(differing)} ({why})",
            "With determinism: strict and the same machine this is a fault: report it with the run's manifest.json",
        )


def _row(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return ["not known", ""]
    first = verdict.first_difference
    return ["yes" if verdict.equal else "NO", f"step {first.step}, {first.what}" if first else ""]
