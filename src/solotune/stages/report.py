"""report: what was trained, measured and exported, as pages that open in any browser."""

from __future__ import annotations

from pathlib import Path

from solotune import report
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.console import counted, say

RUNS = Path("runs")


def run(wanted: str | None = None) -> None:
    """Writes the page of one run, or those of all runs that have none or an old one; and the index.

    Args:
        wanted: run id, unique prefix, or `latest`; None: all.

    Raises:
        ArtifactError: there is no such run.
    """
    if wanted is not None:
        say(f"page of the run: {report.write_run_page(RunDir.find(RUNS, wanted))}")
    else:
        outdated = [one for one in (RunDir(RUNS / run_id) for run_id in run_ids(RUNS)) if report.is_outdated(one)]
        written = sum(report.try_to_write(report.write_run_page, one) for one in outdated)
        say(f"{counted(written, 'page')} of runs written, {len(run_ids(RUNS)) - len(outdated)} as they were")
    RUNS.mkdir(exist_ok=True)
    say(f"page of all runs: {report.write_index(RUNS)}")
