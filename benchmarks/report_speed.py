"""How long a run's page takes to write and to open, with many answers on it, in headless Chromium.

    python benchmarks/report_speed.py [--times 5] [--json FILE]

Opened from a file, in a browser that has just begun for each page and then again and again; the first opening and the
median are told. `rows` is when the first page of answers stands in the document, `painted` when the frame after `load`
was drawn; both in milliseconds from the beginning of the navigation. The rows are the demo's; `long` ones have answers
of about 1,000 characters.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.report.demo import make_run

from solotune.artifacts.measured import Prediction
from solotune.artifacts.run_dir import RunDir
from solotune.report import write_index, write_run_page

CASES = {"2,000 rows": (2_000, 0), "20,000 rows": (20_000, 0), "20,000 long rows": (20_000, 1_000)}
RUNS_IN_INDEX = 100
AFTER_PAINT = (
    "addEventListener('load', () => requestAnimationFrame(() => setTimeout(() => painted = performance.now())))"
)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = given.json and given.json.resolve()
    with chromium() as browser:
        version = f"Chromium {browser.version}"
    machine = {"browser": version, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "times": given.times}
    print(f"{version}, {machine['cores']} cores, load {machine['load']}")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        os.chdir(temporary)
        found = {name: page_of(rows, more, given.times) for name, (rows, more) in CASES.items()}
        found[f"index of {RUNS_IN_INDEX} runs"] = index(given.times)
    for name, one in found.items():
        print(
            f"  {name:18} {one['bytes'] / 2**20:6.1f} MiB, written in {one['write_seconds']:5.2f} s; "
            f"rows {one['rows_ms']['first']:5.0f} ms, then {one['rows_ms']['median']:5.0f}; "
            f"painted {one['painted_ms']['first']:5.0f} ms, then {one['painted_ms']['median']:5.0f}"
        )
    if result:
        result.write_text(json.dumps({**machine, "pages": found}, indent=2) + "\n")


def page_of(rows: int, more: int, times: int) -> dict[str, Any]:
    """Writes a run's page and opens it.

    Args:
        rows: held-out rows.
        more: characters by which each answer is longer.
        times: openings.
    """
    run_dir = make_run(Path(f"runs-{rows}-{more}"), rows=rows, steps=2_000)
    if more:
        lengthen(run_dir, more)
    start = time.perf_counter()
    page = write_run_page(run_dir)
    seconds = round(time.perf_counter() - start, 2)
    return {"write_seconds": seconds, "bytes": page.stat().st_size, **opened(page, times)}


def lengthen(run_dir: RunDir, characters: int) -> None:
    """Makes each answer longer, no two alike."""

    def longer(row: Prediction) -> Prediction:
        text = f" {row.id} says more." * (characters // 20)
        answers = {name: getattr(row, name) for name in ("base", "adapter")}
        changed = {name: msgspec.structs.replace(a, answer=a.answer + text) for name, a in answers.items()}
        return msgspec.structs.replace(row, **changed)

    lines = run_dir.predictions.read_bytes().splitlines()
    rows = [longer(msgspec.json.decode(line, type=Prediction)) for line in lines]
    run_dir.predictions.write_bytes(msgspec.json.Encoder().encode_lines(rows))


def index(times: int) -> dict[str, Any]:
    """The page of all runs, of some thousand steps each."""
    runs = Path("runs-index")
    for number in range(RUNS_IN_INDEX):
        make_run(runs, f"20261123-{number:06}-home-a2dbe2", rows=20, steps=1_000, seed=number)
    start = time.perf_counter()
    page = write_index(runs)
    seconds = round(time.perf_counter() - start, 2)
    return {"write_seconds": seconds, "bytes": page.stat().st_size, **opened(page, times)}


def opened(path: Path, times: int) -> dict[str, Any]:
    """Milliseconds of the first opening, and the median of all."""
    rows, painted = [], []
    with chromium() as browser, browser.new_page(viewport={"width": 1280, "height": 900}) as page:
        page.add_init_script(AFTER_PAINT)
        for _ in range(times):
            page.goto(path.resolve().as_uri())
            rows.append(page.evaluate("performance.getEntriesByName('rows-shown')[0].startTime"))
            painted.append(page.wait_for_function("window.painted").json_value())
        assert page.console_messages() == []
        assert page.page_errors() == []
    return {
        name: {"first": round(taken[0], 1), "median": round(statistics.median(taken), 1)}
        for name, taken in (("rows_ms", rows), ("painted_ms", painted))
    }


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that has just begun."""
    program = shutil.which("chromium")
    assert program, "no Chromium: sudo apt-get install chromium"
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program) as browser:
        yield browser


if __name__ == "__main__":
    main()
