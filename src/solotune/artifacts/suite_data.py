"""data/hub/suite/<name>--<key>/: a data set that tasks of `evaluate --suite` load, as `fetch` left it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts.files import (
    FileRecord,
    atomic_folder,
    differing_files,
    discard,
    read_record,
    record_files,
    sha256_text,
    write_json,
)
from solotune.errors import ArtifactError

SCHEMA_VERSION = 1
ROOT = Path("data/hub/suite")
_MADE_BY = "invoke fetch --config CONFIG"


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
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}-{config or ''}").lower()[-60:].strip("-.")
        self.path = ROOT / f"{readable}--{key[:12]}"
        self.rows = self.path / "rows"
        """Written by `save_to_disk`."""

    @property
    def is_complete(self) -> bool:
        return (self.path / "manifest.json").is_file()

    def open(self) -> SuiteDataManifest:
        """The manifest, after proof that every file is there with its size.

        Raises:
            ArtifactError: a file is missing or cut.
        """
        manifest = read_record(self.path / "manifest.json", SuiteDataManifest, _MADE_BY)
        damage = differing_files(self.path, manifest.files, hashes=False)
        if damage:
            fix = f"Delete that folder and run `{_MADE_BY}`"
            raise ArtifactError(f"the data set in {self.path} is damaged: {damage[0]}", fix)
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
            write_json(staged / "manifest.json", manifest)
