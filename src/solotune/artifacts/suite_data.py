"""data/hub/suite/<name>--<key>/: a data set that tasks of `evaluate --suite` load, as `fetch` left it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts import data_dir
from solotune.artifacts.fetched import MADE_BY, readable, refuse_damaged
from solotune.artifacts.files import (
    FileRecord,
    atomic_folder,
    discard,
    read_record,
    record_files,
    sha256_text,
    write_json,
)

SCHEMA_VERSION = 1
ROOT = data_dir.ROOT / "suite"


class SuiteDataManifest(msgspec.Struct, frozen=True):
    """What was loaded, and the files that it is in."""

    schema_version: int
    name: str
    """The data set's id on the hub; `json`, `csv`, …: rows from addresses that `arguments` has."""
    config: str | None
    """One of its configurations."""
    arguments: dict[str, Any]
    """Else of `datasets.load_dataset`."""
    revision: str | None
    """The commit that it had on that day; None: it isn't a repository of the hub's."""
    files: dict[str, FileRecord]
    solotune: str


class SuiteData:
    """One call of `datasets.load_dataset`, and where what it returns is kept."""

    def __init__(self, name: str, config: str | None, arguments: Mapping[str, Any]) -> None:
        self.name, self.config, self.arguments = name, config, dict(arguments)
        key = sha256_text(json.dumps([name, config, self.arguments], sort_keys=True))
        self.path = ROOT / f"{readable(f'{name}-{config}' if config else name).lstrip('-.')}--{key[:12]}"
        self.manifest_path = self.path / "manifest.json"
        self.rows = self.path / "rows"
        """Written by `save_to_disk`."""

    @property
    def is_complete(self) -> bool:
        return self.manifest_path.is_file()

    def open(self) -> SuiteDataManifest:
        """The manifest, after proof that every file is there with its size.

        Raises:
            ArtifactError: a file is missing or cut.
        """
        manifest = read_record(self.manifest_path, SuiteDataManifest, MADE_BY)
        refuse_damaged(self.path, manifest.files, "the data set", shown=1)
        return manifest

    @contextmanager
    def bringing(self, revision: str | None, solotune: str) -> Iterator[Path]:
        """A folder for the rows; when the block ends well, they are there under their name, whole.

        What is there without a manifest, half of a copy for one, goes.
        """
        discard(self.path)
        with atomic_folder(self.path) as staged:
            yield staged / self.rows.name
            manifest = SuiteDataManifest(
                SCHEMA_VERSION, self.name, self.config, self.arguments, revision, record_files(staged), solotune
            )
            write_json(staged / self.manifest_path.name, manifest)
