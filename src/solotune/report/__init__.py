"""Pages about runs: report.html of one, index.html of all. Reads what the stages wrote, and needs no torch.

Everything in them is data that somebody else chose. What the template writes is escaped by it; what scripts show lies
in the page as JSON, and reaches it as text only. The pages ask for nothing: no file, no address, no library.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from solotune.artifacts.files import remove_staged, write_text
from solotune.artifacts.lock import held
from solotune.artifacts.run_dir import RunDir
from solotune.console import safe, warn

Of = TypeVar("Of", RunDir, Path)

INDEX = "index.html"
_MOMENTS = 10.0
"""Seconds to wait for another one that is being written, or for a run that begins."""
_HEAD_BYTES = 2048
"""At the beginning of a page, in which it says who wrote it."""


def write(run_dir: RunDir) -> None:
    """Writes a run's page and the index of all runs, at the end of a stage; what goes wrong is one line of warning."""
    try_to_write(write_run_page, run_dir)
    try_to_write(write_index, run_dir.path.parent)


def try_to_write(write_page: Callable[[Of], Path], of: Of) -> bool:
    """Whether a page could be written; why not, is a warning. A page takes no stage down, and no other page."""
    try:
        write_page(of)
    except Exception as error:  # noqa: BLE001  whatever it is
        why = safe(f"{type(error).__name__}: {error}", 300)
        warn(f"the page of {of.path if isinstance(of, RunDir) else of} couldn't be written: {why}")
        return False
    return True


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
    text = index_page(runs)
    with held(runs, "report (the index)", wait=_MOMENTS):
        remove_staged(runs)  # what was killed while it wrote one
        write_text(page, text)
    return page
