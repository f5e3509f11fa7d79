"""The strict prepare beside `datasets.load_dataset("json")` and a `map` that makes the same checks in Python.

    python benchmarks/prepare_speed.py [--rows 200000] [--times 3] [--near off ...] [--no-datasets] [--json FILE]

Each way runs in a process of its own, from its first import to its last fsync, several times in turn; the median
counts. prepare reads, checks, removes duplicates, divides, writes, hashes and reports; the `map` writes no splits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from speed_rows import raw_lines

FEW = 100
CONFIG = """
dataset: {{raw_files: [{raw}], splits_dir: {splits}, dedup: {{near: "{near}"}}}}
model: {{name_or_path: not/fetched, revision: "{revision}"}}
"""


class Taken(NamedTuple):
    """What a process took."""

    wall: float
    cpu: float
    """Seconds of all cores, with those of its children."""
    peak_mib: float
    """Of the largest one of its processes."""


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--near", nargs="*", default=["off", "report", "cluster"])
    parser.add_argument("--no-datasets", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        folder = Path(temporary)
        few, rows = folder / "few.jsonl", folder / "rows.jsonl"
        few.write_bytes(b"".join(raw_lines(FEW)))
        size = write_rows(rows, given.rows)
        ways = {f"prepare of {FEW} rows: its start": prepare(few, "off")}
        ways |= {f"prepare, dedup.near: {near}": prepare(rows, near) for near in given.near}
        if not given.no_datasets:
            ways |= {f"datasets + map, num_proc={n}": datasets_map(rows, n) for n in (1, 2)}
        taken: dict[str, list[Taken]] = {name: [] for name in ways}
        for _ in range(given.times):
            for name, command in ways.items():
                taken[name].append(timed(command, folder))
    found = {name: shown(name, given.rows, runs) for name, runs in taken.items()}
    print(f"  allowed: 100 MiB + 140 bytes a row = {100 + 140 * given.rows / 2**20:,.0f} MiB")
    if given.json:
        given.json.write_text(json.dumps({"rows": given.rows, "bytes": size, "ways": found}, indent=2) + "\n")


def write_rows(path: Path, rows: int) -> int:
    """Returns the size of the file."""
    with path.open("wb") as out:
        out.writelines(raw_lines(rows))
        os.fsync(out.fileno())
    size = path.stat().st_size
    print(f"{rows:,} rows, {size / rows:.0f} bytes a row, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    return size


def prepare(rows: Path, near: str) -> list[str]:
    """The command of a user whose base model hasn't been fetched: token lengths are another benchmark's."""
    config = rows.with_name(f"{rows.stem}-{near}.yaml")
    config.write_text(CONFIG.format(raw=rows, splits=config.with_suffix(""), near=near, revision="0" * 40))
    return [sys.executable, "-m", "solotune", "prepare", "--replace", "--config", str(config)]


def datasets_map(rows: Path, processes: int) -> list[str]:
    script = Path(__file__).with_name("datasets_map.py")
    return [sys.executable, str(script), str(rows), str(rows.with_name("cache")), str(processes)]


def timed(command: list[str], folder: Path) -> Taken:
    """Runs a command once, with no cache of an earlier run."""
    subprocess.run(["rm", "-rf", folder / "cache"], check=True)
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    complaint = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    assert status == 0, complaint.decode()[-2000:]
    return Taken(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def shown(name: str, rows: int, runs: list[Taken]) -> dict[str, Any]:
    """Prints a line of the table and returns its figures."""
    wall, cpu, peak = (statistics.median(column) for column in zip(*runs, strict=True))
    print(
        f"  {name:34s} {wall:7.2f} s wall, {rows / wall:8,.0f} rows/s; {cpu:7.2f} s processor, "
        f"{rows / cpu:8,.0f} rows/s; peak {peak:6,.0f} MiB"
    )
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak, "runs": [run._asdict() for run in runs]}


if __name__ == "__main__":
    main()
