"""runs: what was trained here, and what was measured on it."""

from __future__ import annotations

from pathlib import Path

from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.console import say, table
from solotune.errors import SolotuneError
from solotune.report.gathered import read_log, state_of

RUNS = Path("runs")


def run() -> None:
    """Prints a line for each run, oldest first; a damaged one is named and hides no other."""
    rows = [_line(RunDir(RUNS / run_id)) for run_id in run_ids(RUNS)]
    if not rows:
        say("no runs yet; start one with `invoke train --config CONFIG`")
        return
    table(["run", "state", "steps", "val loss", "held-out loss", "first metric"], rows)


def _line(run_dir: RunDir) -> list[str]:
    try:
        manifest, report = run_dir.manifest(), run_dir.report()
    except SolotuneError as error:
        return [run_dir.run_id, f"damaged: {error.what}", "", "", "", ""]
    state, outcome = state_of(run_dir, manifest, report), manifest.outcome
    if outcome is None:
        return [run_dir.run_id, state, _so_far(run_dir), "", "", ""]
    val = "" if outcome.eval_loss is None else f"{outcome.eval_loss:.4f}"
    first = next(iter(report.adapter.metrics.items()), None) if report else None
    return [
        run_dir.run_id,
        state,
        f"{outcome.steps:,}",
        val,
        f"{report.adapter.loss:.4f}" if report else "",
        f"{first[0]} {first[1].value:.3f}" if first else "",
    ]


def _so_far(run_dir: RunDir) -> str:
    try:
        log, _ = read_log(run_dir.metrics)
    except OSError:
        return ""
    return f"{log[-1].step:,} so far" if log else ""
