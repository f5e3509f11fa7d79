"""What became of every raw row, from the manifest of the splits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.splits_dir import SplitsDir, SplitsManifest
from solotune.config.schema import SPLITS


@dataclass(frozen=True)
class LedgerLine:
    """Rows that went one way."""

    name: str
    rows: int
    part: str = ""
    """Of the bar; empty: it is in no part or in several."""
    inner: bool = False
    """They are among those of the line before."""
    sum: bool = False


@dataclass(frozen=True)
class Part:
    """A stretch of the bar; places in percent."""

    name: str
    rows: int
    start: float
    width: float


@dataclass(frozen=True)
class Ledger:
    """rows in = kept + duplicates + quarantined"""

    rows_in: int
    lines: list[LedgerLine]
    parts: list[Part]
    words: str
    """The bar for whoever doesn't see it."""
    page: str
    """Address of the page that `prepare` wrote, seen from the run's; empty: there is none."""


def ledger(splits: SplitsManifest, run_dir: RunDir) -> Ledger:
    """The ledger of the rows that a run was trained on."""
    lines = [LedgerLine("kept", splits.rows_kept, sum=True)]
    lines += [LedgerLine(split, splits.rows.get(split, 0), split, inner=True) for split in SPLITS]
    lines.append(LedgerLine("duplicates of kept ones", splits.rows_duplicate, "duplicate", sum=True))
    lines.append(LedgerLine("quarantined", splits.rows_quarantined, "quarantined", sum=True))
    reasons = sorted(splits.reasons.items(), key=lambda reason: (-reason[1], reason[0]))
    lines += [LedgerLine(code, rows, inner=True) for code, rows in reasons]
    parts, start = [], 0.0
    for line in lines:
        if line.part and line.rows:
            width = 100 * line.rows / max(splits.rows_in, 1)
            parts.append(Part(line.part, line.rows, round(start, 3), round(width, 3)))
            start += width
    words = ", ".join(f"{part.rows:,} {part.name}" for part in parts)
    return Ledger(splits.rows_in, lines, parts, words, _page(splits, run_dir))


def _page(splits: SplitsManifest, run_dir: RunDir) -> str:
    folder = splits.config.get("splits_dir")
    page = SplitsDir(Path(str(folder))).report
    return Path(os.path.relpath(page, run_dir.path)).as_posix() if folder and page.is_file() else ""
