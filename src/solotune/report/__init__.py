"""Pages about runs: report.html of one, index.html of all. Reads what the stages wrote, and needs no torch.

Everything in them is data that somebody else chose. What the template writes is escaped by it; what scripts show lies
in the page as JSON, and reaches it as text only. The pages ask for nothing: no file, no address, no library.
"""

from __future__ import annotations

from pathlib import Path

from solotune.artifacts.files import write_text
from solotune.artifacts.run_dir import RunDir
from solotune.console import warn

INDEX = "index.html"
_HEAD_BYTES = 2048
"""At the beginning of a page, in which it says who wrote it."""


def write(run_dir: RunDir) -> None:
    """Writes a run's page and the index of all runs, at the end of a stage; what goes wrong is one line of warning."""
    try:
        write_run_page(run_dir)
        write_index(run_dir.path.parent)
    except Exception as error:  # noqa: BLE001  a page must never take a finished stage down with it
        warn(f"the page of run {run_dir.run_id} couldn't be written: {error}")


def write_run_page(run_dir: RunDir) -> Path:
    """Writes `report.html` of one run: of what there is of it, finished or not."""
    from solotune.report.run_page import run_page

    write_text(run_dir.page, run_page(run_dir))
    return run_dir.page


def is_outdated(run_dir: RunDir) -> bool:
    """Whether a run has no page, one from before its newest file, or one of another solotune."""
    from solotune.report.page import GENERATOR

    try:
        written = run_dir.page.stat().st_mtime_ns
        with run_dir.page.open("rb") as page:
            if GENERATOR.encode() not in page.read(_HEAD_BYTES):
                return True
    except OSError:
        return True
    sources = [run_dir.config, run_dir.manifest_path, run_dir.metrics, run_dir.not_finite, run_dir.export_record]
    sources += [*run_dir.path.glob("eval_report*.json"), run_dir.predictions]
    return any(path.exists() and path.stat().st_mtime_ns > written for path in sources)


def write_index(runs: Path) -> Path:
    """Writes `index.html`: all runs below `runs`, to sort and to compare."""
    from solotune.report.index_page import index_page

    page = runs / INDEX
    write_text(page, index_page(runs))
    return page
