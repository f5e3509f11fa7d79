"""Pages about runs: report.html of one, index.html of all. Reads what the stages wrote, and needs no torch.

Everything in them is data that somebody else chose. What the template writes is escaped by it; what scripts show lies
in the page as JSON, and reaches it as text only. The pages ask for nothing: no file, no address, no library.
"""

from __future__ import annotations

from pathlib import Path

from solotune.artifacts.run_dir import RunDir


def write(run_dir: RunDir) -> None:
    """Writes a run's page and the index of all runs, at the end of a stage; what goes wrong is one line of warning."""


def write_run_page(run_dir: RunDir) -> Path:
    """Writes `report.html` of one run: of what there is of it, finished or not."""
    return run_dir.page


def write_index(runs: Path) -> Path:
    """Writes `index.html`: all runs below `runs`, to sort and to compare."""
    return runs / "index.html"
