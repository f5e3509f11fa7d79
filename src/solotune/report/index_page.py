"""index.html: all runs in one table, and what is needed to lay some of them over each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from solotune.artifacts.measured import EvalReport, MetricSummary
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.console import duration
from solotune.report.curves import curves
from solotune.report.gathered import Gathered, gather
from solotune.report.page import render
from solotune.report.settings import shown_value
from solotune.report.verdict import word

_SCRIPTS = ("dom.js", "charts.js", "index.js")
_METRICS = 3
_POINTS = 300


@dataclass(frozen=True)
class Cell:
    """What stands in a column, and what it is sorted by; None goes last."""

    text: str
    value: float | str | None


@dataclass(frozen=True)
class Run:
    """A line of the table."""

    id: str
    page: str
    """Address of its page; empty: it has none."""
    cells: dict[str, Cell]


class Compared(msgspec.Struct, frozen=True):
    """What two runs are compared by."""

    id: str
    name: str
    loss: list[tuple[int, float]]
    """The smoothed curve where there is one."""
    val: list[tuple[int, float]]
    settings: dict[str, str]
    measures: list[tuple[str, str, float]]
    """(measure, as text, as number)"""
    rows: str
    """Which rows it was measured on; runs that differ in it can't be compared by what was measured."""


_COLUMNS = (
    ("created", "Begun", ""),
    ("name", "Run", ""),
    ("state", "State", ""),
    ("model", "Base model", ""),
    ("val", "Val loss", "n"),
    ("loss", "Held-out loss", "n"),
    ("verdict", "Verdict", ""),
)
_LAST_COLUMNS = (("seconds", "Training", "n"), ("vram", "Peak VRAM", "n"))
"""Key, heading and class of each column; metrics stand between."""


def index_page(runs: Path) -> str:
    """The page of all runs below a folder, the newest first."""
    gathered = [gather(RunDir(runs / run_id)) for run_id in reversed(run_ids(runs))]
    counts = Counter(name for run in gathered if run.report for name in run.report.adapter.metrics)
    metrics = [name for name, _ in counts.most_common(_METRICS)]
    return render(
        "index.html.jinja",
        _SCRIPTS,
        {"runs": [_compared(run) for run in gathered]},
        columns=[*_COLUMNS, *((f"metric {name}", name, "n") for name in metrics), *_LAST_COLUMNS],
        runs=[_line(run, metrics) for run in gathered],
    )


def _line(run: Gathered, metrics: Sequence[str]) -> Run:
    manifest, report = run.manifest, run.report
    outcome = manifest.outcome if manifest else None
    name = run.name
    verdict = word(report.comparison) if report else ""
    created = manifest.created if manifest else _created(run.run_dir.run_id)
    return Run(
        run.run_dir.run_id,
        f"{run.run_dir.run_id}/{run.run_dir.page.name}" if run.run_dir.page.exists() else "",
        {
            "created": Cell(created[:10], created),
            "name": Cell(name, name),
            "state": Cell(run.state, run.state),
            "model": Cell(model := str(run.settings.get("model.name_or_path", "")), model or None),
            "val": _number(outcome.eval_loss if outcome else None, ".4f"),
            "loss": _number(report.adapter.loss if report else None, ".4f"),
            "verdict": Cell(verdict, _RANK.get(verdict)),
            **{f"metric {name}": _number(_metric(report, name), ".3f") for name in metrics},
            "seconds": Cell(duration(outcome.seconds), outcome.seconds) if outcome else Cell("", None),
            "vram": _gib(outcome.peak_vram_bytes if outcome else None),
        },
    )


def _created(run_id: str) -> str:
    """Of a run whose manifest can't be read."""
    day, time = run_id[:8], run_id[9:15]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}Z"


_RANK = {"better": 0, "mixed": 1, "cannot tell": 2, "worse": 3}


def _number(value: float | None, form: str) -> Cell:
    return Cell("" if value is None else f"{value:{form}}", value)


def _gib(value: int | None) -> Cell:
    return Cell("" if value is None else f"{value / 2**30:.1f} GiB", value)


def _metric(report: EvalReport | None, name: str) -> float | None:
    return report.adapter.metrics[name].value if report and name in report.adapter.metrics else None


def _compared(run: Gathered) -> Compared:
    drawn = curves(run.log, _POINTS)
    return Compared(
        run.run_dir.run_id,
        run.name,
        drawn.smoothed or drawn.loss,
        drawn.val,
        {key: shown_value(value) for key, value in run.settings.items()},
        _measures(run),
        _rows(run.report) if run.report else "",
    )


def _measures(run: Gathered) -> list[tuple[str, str, float]]:
    found: list[tuple[str, str, float]] = []
    if report := run.report:
        found.append(("held-out loss", f"{report.adapter.loss:.4f}", report.adapter.loss))
        found.append(("held-out loss of the base model", f"{report.base.loss:.4f}", report.base.loss))
        found += [(name, _interval(of), of.value) for name, of in report.adapter.metrics.items()]
    if run.manifest and (outcome := run.manifest.outcome):
        if outcome.eval_loss is not None:
            found.append(("val loss", f"{outcome.eval_loss:.4f}", outcome.eval_loss))
        rate = outcome.tokens / max(outcome.seconds, 1e-9)
        found.append(("steps", f"{outcome.steps:,}", outcome.steps))
        found.append(("training", duration(outcome.seconds), outcome.seconds))
        found.append(("tokens a second", f"{rate:,.0f}", rate))
        if outcome.peak_vram_bytes:
            found.append(("peak VRAM", f"{outcome.peak_vram_bytes / 2**30:.1f} GiB", outcome.peak_vram_bytes))
    return found


def _interval(of: MetricSummary) -> str:
    return f"{of.value:.3f} ({of.ci95[0]:.3f} to {of.ci95[1]:.3f})"


def _rows(report: EvalReport) -> str:
    file = report.splits.get(f"{report.split}.jsonl")
    return f"{report.split}, {report.examples}, {file.sha256 if file else ''}"
