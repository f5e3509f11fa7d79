"""data/splits/: what `prepare` writes and every later stage reads."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts.files import (
    FileRecord,
    differing_files,
    fsync_folder,
    make_folder,
    read_record,
    remove_staged,
    sha256_text,
    staged_folder,
    write_json,
    write_text,
)
from solotune.config.schema import DatasetConfig, Split
from solotune.console import safe
from solotune.errors import ArtifactError

SCHEMA_VERSION = 1
MADE_BY = "invoke prepare --config CONFIG"


class NearPair(msgspec.Struct, frozen=True):
    """A row of val or test, and one on another side that is nearly the same. A line of near_duplicates.jsonl."""

    id: str
    split: Split
    other_id: str
    other_split: Split
    jaccard: float


class NearDuplicates(msgspec.Struct, frozen=True):
    """What was found of rows that say almost the same."""

    threshold: float
    rows: dict[str, int]
    """Rows of val and of test that have a near-duplicate on another side."""
    pairs: FileRecord
    """near_duplicates.jsonl. Not among the outputs: a run is bound to its rows, not to what was seen in them."""
    clusters: int = 0
    """Sets of groups that were put on one side for it."""
    clustered_rows: int = 0
    """Rows of those groups."""


class SplitsManifest(msgspec.Struct, frozen=True):
    """Where the rows came from and where each of them went.

    rows_in == rows_kept + rows_quarantined + rows_duplicate, always.
    """

    schema_version: int
    config: dict[str, Any]
    """The dataset section that made these splits."""
    inputs: dict[str, FileRecord]
    """Raw files, by path relative to the repository."""
    outputs: dict[str, FileRecord]
    """Files of this folder."""
    rows_in: int
    rows_kept: int
    rows_quarantined: int
    rows_duplicate: int
    rows: dict[str, int]
    """Kept rows by split."""
    reasons: dict[str, int]
    """Quarantined rows by reason code."""
    tags: dict[str, dict[str, int]]
    """Kept rows by tag and split."""
    solotune: str
    """Version that wrote it."""
    notes: dict[str, int] = {}
    """What was passed over and isn't a row: blank lines, byte order marks."""
    groups: dict[str, int] = {}
    """Groups by split; {}: written before they were counted."""
    near: NearDuplicates | None = None
    """None: nobody looked for near-duplicates."""
    unread_columns: dict[str, int] = {}
    """Columns of the raw rows that the format doesn't read, and in how many rows they are."""
    rows_by_file: dict[str, int] = {}
    """Rows in, by raw file."""
    report: FileRecord | None = None
    """report.html. Not among the outputs: what a run is bound to are the rows, and the report shows more once a base
    model is there to count tokens with."""

    def changes(self, config: DatasetConfig) -> str:
        """What `config` asks for that these splits weren't made with; empty where they are what it would make."""
        return "; ".join(f"{k}: {made!r} -> {wanted!r}" for k, (made, wanted) in self._differing(config).items())

    def ways_out(self, config: DatasetConfig) -> str:
        """What to do where there are `changes`."""
        flags = self._flags(config)
        as_made = f"add `{flags}` to this command (where it has a --config), " if flags else ""
        return f"Run `{MADE_BY} --replace`, {as_made}or give this config a dataset.splits_dir of its own"

    def _flags(self, config: DatasetConfig) -> str:
        """The --set with which `config` is what made these splits; empty where a list or a mapping differs."""
        plain = {k for k, v in config.model_dump(mode="json").items() if isinstance(v, str | int | float)}
        differing = self._differing(config)
        # With the name of another folder, a command would look there.
        if not differing.keys() <= plain - {"splits_dir"}:
            return ""
        as_made = [f"dataset.{k}={made}" for k, (made, _) in differing.items()]
        return " ".join(f"--set {shlex.quote(text)}" for text in as_made) if all(safe(t) == t for t in as_made) else ""

    def _differing(self, config: DatasetConfig) -> dict[str, tuple[Any, Any]]:
        """What these splits were made with and what `config` asks for, by the keys that differ.

        A key that came to be later has its default in a manifest from before.
        """
        fields = type(config).model_fields
        defaults = config.model_copy(update={k: f.get_default() for k, f in fields.items() if not f.is_required()})
        made, wanted = (
            _of_rows(defaults.model_dump(mode="json") | self.config),
            _of_rows(config.model_dump(mode="json")),
        )
        keys = sorted(wanted.keys() | made.keys())
        return {k: (made.get(k), wanted.get(k)) for k in keys if wanted.get(k) != made.get(k)}


def _of_rows(dataset: dict[str, Any]) -> dict[str, Any]:
    """The keys of a dataset section that decide which row lies where."""
    # The length policy acts when train reads; near-duplicates move rows only when they are clustered.
    dedup = dataset["dedup"]
    clustered = (
        f"near {dedup['near']}, threshold {dedup['threshold']:g}" if dedup["near"] == "cluster" else "no cluster"
    )
    return {k: v for k, v in dataset.items() if k != "on_overflow"} | {"dedup": clustered}


class SplitsDir:
    """Paths of one set of splits. A manifest in it means that all of it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_path = path / "manifest.json"
        self.quarantine = path / "quarantine.jsonl"
        self.rejected = path / "rejected.jsonl"
        """The quarantine of a prepare that didn't finish; no part of the splits that may lie beside it."""
        self.report = path / "report.html"
        self.near_duplicates = path / "near_duplicates.jsonl"
        """The first pairs that lie on two sides; only where near-duplicates are looked for."""
        self.clusters = path / "clusters.jsonl"
        """The cluster of each row that is in one; only with dataset.dedup.near: cluster."""

    def split(self, split: Split) -> Path:
        return self.path / f"{split}.jsonl"

    @property
    def is_complete(self) -> bool:
        return self.manifest_path.is_file()

    def manifest(self) -> SplitsManifest:
        """Reads the manifest. Raises ArtifactError when the folder is missing or unfinished."""
        manifest = read_record(self.manifest_path, SplitsManifest, MADE_BY)
        if manifest.schema_version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{self.manifest_path} has schema_version {manifest.schema_version}, "
                f"this solotune reads {SCHEMA_VERSION}",
                f"Delete {self.path} and run `{MADE_BY}`",
            )
        return manifest

    def open(self, config: DatasetConfig) -> SplitsManifest:
        """The manifest, after proof that the files are the ones it speaks of and that `config` made them.

        Raises:
            ArtifactError: missing, unfinished, changed by hand, or made with another dataset section.
        """
        manifest = self.manifest()
        damage = differing_files(self.path, manifest.outputs, hashes=True)
        if damage:
            raise ArtifactError(
                f"{self.path} isn't what prepare wrote: {'; '.join(damage)}", f"Run `{MADE_BY} --replace`"
            )
        if changes := manifest.changes(config):
            raise ArtifactError(
                f"{self.path} was prepared with another dataset section ({changes})",
                manifest.ways_out(config),
            )
        return manifest

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder in this one, for files on their way to `publish`; gone when the block ends, anyhow.

        What an earlier process left when it was killed is cleared away first.
        """
        make_folder(self.path)
        remove_staged(self.path)
        with staged_folder(self.path / "prepare") as staged:
            yield staged

    def clear_leftovers(self) -> None:
        """Deletes what an earlier process left when it was killed; none of it is part of the splits."""
        remove_staged(self.path)

    def publish(self, staged: Path, manifest: SplitsManifest, report: str) -> SplitsManifest:
        """Moves finished, flushed files out of `staged` (a folder below this one), the manifest last.

        The folder itself may be a mount point, so its files are renamed one by one; the old manifest goes
        first, so that no moment shows new rows under an old manifest. After that nothing is written, only
        renamed: a full disk shows itself while the old splits are still whole.
        """
        new_manifest, new_report = staged / self.manifest_path.name, staged / self.report.name
        write_text(new_report, report)
        manifest = msgspec.structs.replace(manifest, report=FileRecord.of(new_report))
        write_json(new_manifest, manifest)
        self.manifest_path.unlink(missing_ok=True)
        fsync_folder(self.path)
        for name in manifest.outputs:
            (staged / name).replace(self.path / name)
        if self.clusters.name not in manifest.outputs:
            self.clusters.unlink(missing_ok=True)
        if manifest.near:
            (staged / self.near_duplicates.name).replace(self.near_duplicates)
        else:
            self.near_duplicates.unlink(missing_ok=True)
        new_report.replace(self.report)
        self.rejected.unlink(missing_ok=True)
        fsync_folder(self.path)
        new_manifest.replace(self.manifest_path)
        fsync_folder(self.path)
        return manifest

    def refresh_report(self, manifest: SplitsManifest, report: str) -> None:
        """Writes report.html anew where it differs; the rows stay whole and bound to their manifest at every moment."""
        record = FileRecord(len(report.encode()), sha256_text(report))
        if manifest.report == record and not differing_files(self.path, {self.report.name: record}, hashes=True):
            return
        write_text(self.report, report)
        write_json(self.manifest_path, msgspec.structs.replace(manifest, report=record))
