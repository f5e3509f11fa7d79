"""report: what was trained, measured and exported, as pages that open in any browser."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from solotune import report
from solotune.artifacts.lock import held
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.console import counted, say
from solotune.errors import ArtifactError

RUNS = Path("runs")


def run(wanted: str | None = None) -> None:
    """Writes the page of one run, or those of all runs that have none or an old one; and the index.

    Args:
        wanted: run id, unique prefix, or `latest`; None: all.

    Raises:
        ArtifactError: there is no such run.
    """
    if wanted is not None:
        run_dir = RunDir.find(RUNS, wanted)
        _tidy(run_dir)
        say(f"page of the run: {report.write_run_page(run_dir)}")
    else:
        runs = [RunDir(RUNS / run_id) for run_id in run_ids(RUNS)]
        outdated = [one for one in runs if report.is_outdated(one)]
        for one in runs:
            _tidy(one)
        written = sum(report.try_to_write(report.write_run_page, one) for one in outdated)
        say(f"{counted(written, 'page')} of runs written, {len(runs) - len(outdated)} as they were")
    RUNS.mkdir(exist_ok=True)
    say(f"page of all runs: {report.write_index(RUNS)}")


def _tidy(run_dir: RunDir) -> None:
    """Deletes what a killed process left half written in a run; where one is at work, what is there is its own."""
    with suppress(ArtifactError), held(run_dir.path, "report"):
        run_dir.tidy()
