"""data/splits/: what `prepare` writes and every later stage reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts.files import (
    FileRecord,
    differing_files,
    fsync_folder,
    read_record,
    remove_staged,
    write_json,
)
from solotune.config.schema import DatasetConfig, Split
from solotune.errors import ArtifactError

SCHEMA_VERSION = 1
MADE_BY = "invoke prepare --config CONFIG"


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
    unread_columns: dict[str, int] = {}
    """Columns of the raw rows that the format doesn't read, and in how many rows they are."""


class SplitsDir:
    """Paths of one set of splits. A manifest in it means that all of it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_path = path / "manifest.json"
        self.quarantine = path / "quarantine.jsonl"
        self.rejected = path / "rejected.jsonl"
        """The quarantine of a prepare that didn't finish; no part of the splits that may lie beside it."""

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
        wanted = config.model_dump(mode="json")
        made = manifest.config
        # Where the length policy acts is train; the splits hold the rows whichever it is.
        keys = sorted((wanted.keys() | made.keys()) - {"on_overflow"})
        changes = "; ".join(f"{k}: {made.get(k)!r} -> {wanted.get(k)!r}" for k in keys if wanted.get(k) != made.get(k))
        if changes:
            raise ArtifactError(
                f"{self.path} was prepared with another dataset section ({changes})",
                f"Run `{MADE_BY} --replace`, or give this config a dataset.splits_dir of its own",
            )
        return manifest

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty folder in this one, for files on their way to `publish`; gone when the block ends, anyhow.

        What an earlier process left when it was killed is cleared away first.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        remove_staged(self.path)
        staged = self.path / f".staged-prepare.{os.getpid()}"
        staged.mkdir()
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish(self, staged: Path, manifest: SplitsManifest) -> None:
        """Moves finished, flushed files out of `staged` (a folder below this one), the manifest last.

        The folder itself may be a mount point, so its files are renamed one by one; the old manifest goes
        first, so that no moment shows new rows under an old manifest. After that nothing is written, only
        renamed: a full disk shows itself while the old splits are still whole.
        """
        new_manifest = staged / self.manifest_path.name
        write_json(new_manifest, manifest)
        self.manifest_path.unlink(missing_ok=True)
        fsync_folder(self.path)
        for name in manifest.outputs:
            (staged / name).replace(self.path / name)
        self.rejected.unlink(missing_ok=True)
        fsync_folder(self.path)
        new_manifest.replace(self.manifest_path)
        fsync_folder(self.path)
