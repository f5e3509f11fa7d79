"""runs/<run_id>/: everything about one run, from the config that started it to the model that is shipped."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from solotune.artifacts.files import (
    atomic_folder,
    differing_files,
    make_folder,
    read_record,
    remove_staged,
    sha256_file,
    write_json,
)
from solotune.artifacts.lock import held, refuse_others
from solotune.artifacts.measured import EXPORT_SCHEMA_VERSION, EvalReport, ExportRecord
from solotune.artifacts.run_manifest import SCHEMA_VERSION, Outcome, RunManifest
from solotune.config.schema import Split
from solotune.errors import ArtifactError

_MOMENTS = 10.0
"""Seconds to wait for another run that begins."""
_EVENTS = "events.out.tfevents."
_RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z0-9][a-z0-9_-]{0,47}-[0-9a-f]{6}")


class RunDir:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self.config = path / "config.yaml"
        self.manifest_path = path / "manifest.json"
        self.metrics = path / "metrics.jsonl"
        self.overflow = path / "overflow.jsonl"
        """Rows longer than training.max_length; only where there are some."""
        self.not_finite = path / "not_finite.json"
        """The step that stopped the run because its loss or gradient wasn't a number, and its rows."""
        self.fingerprints = path / "fingerprints.jsonl"
        """Hashes of what each step left; only of trainings that `verify` makes."""
        self.verify = path / "verify"
        """Where `verify` makes its trainings; gone when it has compared them."""
        self.reporting = path / "reporting"
        """What W&B, MLflow and Trackio keep, where training.report_to asks for them."""
        self.checkpoints = path / "checkpoints"
        self.adapter = path / "adapter"
        self.eval_report = path / "eval_report.json"
        self.predictions = path / "predictions.jsonl"
        self.page = path / "report.html"
        self.export = path / "export"
        self.export_record = self.export / "export.json"

    def new_event_file(self) -> Path:
        """One of each process of the run: TensorBoard knows them by their names, and reads them in that order."""
        return self.path / f"{_EVENTS}{time.time_ns()}"

    @classmethod
    def new(cls, root: Path, name: str, run_id: str | None = None) -> RunDir:
        """Paths of a run that is to begin.

        Raises:
            ArtifactError: it is there already, or `run_id` isn't one: it becomes a folder's name.
        """
        if run_id is not None and not _RUN_ID.fullmatch(run_id):
            raise ArtifactError(f"{run_id!r} is no run id", "Leave it out, and one is made")
        run = cls(root / (run_id or new_run_id(name)))
        if run.path.exists():
            raise ArtifactError(f"{run.path} exists already", f"Continue it with `invoke train --resume {run.run_id}`")
        return run

    @contextmanager
    def beginning(self) -> Iterator[RunDir]:
        """Yields the run in a folder beside, to write config and manifest in; the run is there when the block ends.

        So there is no moment at which a run has no manifest, whenever its process is killed.
        """
        root = self.path.parent
        make_folder(root)
        with held(root, f"train (run {self.run_id} begins)", wait=_MOMENTS):
            remove_staged(root)
            with atomic_folder(self.path) as staged:
                yield RunDir(staged)

    def tidy(self) -> None:
        """Deletes what a killed process left half written, models of an export too; for whoever holds the run."""
        remove_staged(self.path)
        remove_staged(self.export)

    @classmethod
    def find(cls, root: Path, wanted: str) -> RunDir:
        """The run with this id, this unique prefix, or the newest one for `latest`.

        Raises:
            ArtifactError: none, or several; the message lists what there is.
        """
        known = run_ids(root)
        if not known:
            raise ArtifactError(f"there are no runs in {root}", "Start one with `invoke train --config CONFIG`")
        wanted = wanted.removeprefix(f"{root}/").strip("/")
        matching = known[-1:] if wanted == "latest" else [i for i in known if i == wanted]
        matching = matching or [i for i in known if i.startswith(wanted)]
        if len(matching) != 1:
            some = ", ".join((matching or known)[-5:])
            raise ArtifactError(
                f"{'several runs begin' if matching else 'no run begins'} with {wanted!r}",
                f"The newest: {some}",
            )
        return cls(root / matching[0])

    def manifest(self) -> RunManifest:
        made_by = "invoke train --config CONFIG"
        manifest = read_record(self.manifest_path, RunManifest, made_by)
        if manifest.schema_version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{self.manifest_path} has schema_version {manifest.schema_version}, not {SCHEMA_VERSION}",
                "Use the solotune that made the run",
            )
        return manifest

    def write_manifest(self, manifest: RunManifest) -> None:
        write_json(self.manifest_path, manifest)

    def finished(self) -> tuple[RunManifest, Outcome]:
        """The manifest and outcome of a run whose adapter is whole.

        Raises:
            ArtifactError: training goes on or hasn't finished, or the adapter isn't the one that training wrote.
        """
        manifest = self.manifest()
        if manifest.outcome is None:
            refuse_others(self.path)
            raise ArtifactError(
                f"run {self.run_id} hasn't finished training",
                f"Finish it with `invoke train --resume {self.run_id}`",
            )
        damage = differing_files(self.adapter, manifest.outcome.adapter, hashes=True)
        if damage:
            raise ArtifactError(
                f"{self.adapter} isn't what training wrote: {'; '.join(damage)}",
                f"Bring it back, where it was copied; or train again: `invoke train --config {self.config}`",
            )
        return manifest, manifest.outcome

    def config_of(self, manifest: RunManifest) -> Path:
        """config.yaml, proven to be the one that the run began with. Raises ArtifactError when it was edited."""
        if sha256_file(self.config) != manifest.config_sha256:
            raise ArtifactError(
                f"{self.config} was changed after the run began",
                "Bring it back; for other settings start a new run with a copy of it",
            )
        return self.config

    def report_paths(self, split: Split | None) -> tuple[Path, Path]:
        """Where report and predictions lie; a split that isn't the config's has its name in theirs."""
        if split is None:
            return self.eval_report, self.predictions
        return self.path / f"eval_report.{split}.json", self.path / f"predictions.{split}.jsonl"

    def report(self) -> EvalReport | None:
        """eval_report.json, or None when the run wasn't evaluated yet."""
        if not self.eval_report.exists():
            return None
        return read_record(self.eval_report, EvalReport, f"invoke evaluate --run {self.run_id}")

    def exported(self) -> ExportRecord | None:
        """export.json, or None when nothing of the run was exported yet.

        Raises:
            ArtifactError: it is damaged, or another solotune wrote it.
        """
        if not self.export_record.exists():
            return None
        record = read_record(self.export_record, ExportRecord, f"invoke export --run {self.run_id}")
        if record.schema_version != EXPORT_SCHEMA_VERSION:
            raise ArtifactError(
                f"{self.export_record} has schema_version {record.schema_version}, not {EXPORT_SCHEMA_VERSION}",
                f"Delete the export to make it again: `rm -r {self.export}`",
            )
        return record


def new_run_id(name: str) -> str:
    """YYYYMMDD-HHMMSS-<config name>-<6 hex>, in UTC, so that ids sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{name}-{secrets.token_hex(3)}"


def run_ids(root: Path) -> list[str]:
    """Ids of the runs below `root`, oldest first."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if p.is_dir() and _RUN_ID.fullmatch(p.name))
