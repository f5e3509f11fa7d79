"""How far two trainings of one config lie apart, where `verify` or `reproduce` has seen it."""

from __future__ import annotations

from pathlib import Path

from solotune.artifacts.run_dir import Reproduction, RunDir, RunManifest, run_ids
from solotune.config.schema import Split
from solotune.errors import ArtifactError


def noise_of(runs: Path, run_dir: RunDir, manifest: RunManifest, split: Split, loss: float) -> float | None:
    """The largest difference in loss that was seen between this run and the same one made again; None: nobody looked.

    Two adapters that are the same to the bit have none. Of others the held-out losses tell, where both were measured
    on this split; else what the logs of the trainings did.

    Args:
        runs: where all runs are.
        run_dir: of a finished run.
        manifest: its own.
        split: that was measured.
        loss: of the adapter on it.
    """
    seen = []
    if manifest.verification:
        rerun = manifest.verification.rerun
        seen.append(0.0 if rerun.equal else rerun.max_loss_difference)
    for other, found in _again(runs, run_dir, manifest):
        held_out = _loss(other, split)
        if found.adapter_equal:
            seen.append(0.0)
        elif held_out is not None:
            seen.append(abs(held_out - loss))
        else:
            seen.append(found.training.max_loss_difference)
    return max(seen, default=None)


def _again(runs: Path, run_dir: RunDir, manifest: RunManifest) -> list[tuple[RunDir, Reproduction]]:
    """The run that this one was made again from, and those made again from this one."""
    found = []
    if manifest.reproduction:
        found.append((RunDir(runs / manifest.reproduction.of), manifest.reproduction))
    for run_id in run_ids(runs):
        try:
            theirs = RunDir(runs / run_id).manifest().reproduction
        except ArtifactError:
            continue  # a damaged run says nothing about this one
        if theirs and theirs.of == run_dir.run_id:
            found.append((RunDir(runs / run_id), theirs))
    return found


def _loss(run_dir: RunDir, split: Split) -> float | None:
    try:
        report = run_dir.report()
    except ArtifactError:
        return None
    return report.adapter.loss if report and report.split == split else None
