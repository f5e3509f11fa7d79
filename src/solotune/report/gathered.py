"""What there is of a run: each file is read on its own, and one that is missing or damaged hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from solotune.artifacts import lock
from solotune.artifacts.files import read_record
from solotune.artifacts.measured import EvalReport, ExportRecord, Prediction
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest
from solotune.artifacts.splits_dir import SplitsDir, SplitsManifest
from solotune.config.yaml_marks import YamlError, parse
from solotune.errors import ArtifactError, SolotuneError

Found = TypeVar("Found")
_Line = TypeVar("_Line", bound=msgspec.Struct)


class LogLine(msgspec.Struct, frozen=True):
    """A line of metrics.jsonl: of a step, or of an evaluation on val."""

    step: int
    loss: float | None = None
    eval_loss: float | None = None
    epoch: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    vram_bytes: int | None = None


@dataclass(frozen=True)
class Gathered:
    """A run as far as it can be read."""

    run_dir: RunDir
    state: str
    """As `state_of` has it."""
    manifest: RunManifest | None
    config: str
    """config.yaml."""
    settings: dict[str, Any]
    """The same, flat: `{"lora.r": 16, …}`."""
    log: list[LogLine]
    report: EvalReport | None
    other_splits: list[EvalReport]
    """Of `evaluate --split`."""
    exported: ExportRecord | None
    splits: SplitsManifest | None
    """Of the rows that the run was trained on; None where they aren't there any more."""
    not_finite: dict[str, Any] | None
    """The step that stopped the run because its loss wasn't a number."""
    problems: list[str]
    """What couldn't be read, in words."""

    @property
    def name(self) -> str:
        """The config's, which is also a part of the id."""
        return self.run_dir.run_id[len("YYYYMMDD-HHMMSS-") : -len("-abcdef")]


def gather(run_dir: RunDir) -> Gathered:
    """Reads a run. Never raises for what is in its files; `Gathered.problems` has it."""
    problems: list[str] = []

    def tried(read: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return read()
        except SolotuneError as error:
            problems.append(error.what)
        except (OSError, ValueError, RecursionError, YamlError) as error:
            problems.append(f"{run_dir.path}: {error}")
        return otherwise

    manifest = tried(run_dir.manifest, None)
    report = tried(run_dir.report, None)
    exported = tried(run_dir.exported, None)
    config = tried(lambda: _config(run_dir), "")
    nothing: tuple[list[LogLine], int] = ([], 0)
    log, damaged = tried(lambda: read_log(run_dir.metrics), nothing)
    if damaged:
        problems.append(f"{run_dir.metrics}: {damaged} lines are damaged and left out")
    return Gathered(
        run_dir,
        state_of(run_dir, manifest, report),
        manifest,
        config,
        tried(lambda: _settings(config), {}),
        log,
        report,
        tried(lambda: _other_splits(run_dir), []),
        exported,
        tried(lambda: _splits(manifest), None) if manifest else None,
        tried(lambda: _not_finite(run_dir), None),
        problems,
    )


def state_of(run_dir: RunDir, manifest: RunManifest | None, report: EvalReport | None) -> str:
    """`running`, `unfinished`, `trained`, `evaluated`, `exported`, or `damaged`."""
    if manifest is None:
        return "damaged"
    if manifest.outcome is None:
        works = lock.holder(run_dir.path)
        return "running" if works and works.doing.startswith("train") else "unfinished"
    if run_dir.export_record.exists():
        return "exported"
    return "evaluated" if report else "trained"


def read_log(path: Path) -> tuple[list[LogLine], int]:
    """metrics.jsonl, and how many of its lines are damaged; of a step that is in it twice the later line."""
    if not path.exists():
        return [], 0
    steps: dict[tuple[int, bool], LogLine] = {}
    damaged = 0
    for line in _lines(path, LogLine):
        if line is None:
            damaged += 1
        else:
            steps[line.step, line.eval_loss is not None] = line
    return [steps[key] for key in sorted(steps)], damaged


def read_predictions(path: Path) -> Iterator[Prediction | None]:
    """predictions.jsonl, a line at a time; None for one that is damaged."""
    return _lines(path, Prediction)


def _lines(path: Path, kind: type[_Line]) -> Iterator[_Line | None]:
    decode = msgspec.json.Decoder(kind).decode
    with path.open("rb") as file:
        for text in file:
            try:
                yield decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield None


def _config(run_dir: RunDir) -> str:
    if not run_dir.config.exists():
        raise ArtifactError(f"{run_dir.config} is missing")
    return run_dir.config.read_text("utf-8")


def _other_splits(run_dir: RunDir) -> list[EvalReport]:
    paths = sorted(run_dir.path.glob("eval_report.*.json"))
    return [read_record(path, EvalReport, f"invoke evaluate --run {run_dir.run_id}") for path in paths]


def _splits(manifest: RunManifest) -> SplitsManifest | None:
    splits = SplitsDir(Path(manifest.splits_dir))
    if not splits.is_complete:
        return None
    found = splits.manifest()
    return found if found.outputs == manifest.splits else None


def _not_finite(run_dir: RunDir) -> dict[str, Any] | None:
    if not run_dir.not_finite.exists():
        return None
    found = msgspec.json.decode(run_dir.not_finite.read_bytes(), type=dict[str, Any])
    return found if {"step", "loss", "grad_norm", "rows"} <= found.keys() else None


def _settings(config: str) -> dict[str, Any]:
    found = parse(config, "config.yaml", [])
    return flat(found.plain()) if found else {}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """`{"lora": {"r": 16}}` as `{"lora.r": 16}`."""
    if not isinstance(value, dict) or not value:
        return {path: value} if path else {}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".strip(".")).items()}
