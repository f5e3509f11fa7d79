"""data/hub/<name>--<revision>/: files of a data set of the hub, as `fetch` left them, with their hashes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from solotune.artifacts.fetched import MADE_BY, readable, refuse_damaged
from solotune.artifacts.files import (
    FileRecord,
    fsync_file,
    fsync_folder,
    make_folder,
    read_record,
    record_files,
    write_json,
)
from solotune.config.schema import DatasetConfig, HubDataset
from solotune.errors import ArtifactError, DataError

SCHEMA_VERSION = 1
ROOT = Path("data/hub")
_SHOWN = 5


class DataManifest(msgspec.Struct, frozen=True):
    """What was fetched, and what could be."""

    schema_version: int
    name: str
    revision: str
    files: dict[str, FileRecord]
    """Fetched files, by path within the data set."""
    offered: list[str]
    """Every file of rows that the data set has at this revision."""
    solotune: str


class DataDir:
    """Paths of one fetched data set. What its manifest names is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_path = path / "manifest.json"

    @classmethod
    def of(cls, hub: HubDataset) -> DataDir:
        return cls(ROOT / f"{readable(hub.name)}--{hub.revision[:12]}")

    @property
    def is_complete(self) -> bool:
        return self.manifest_path.is_file()

    def open(self) -> DataManifest:
        """The manifest, after proof that every file is there with its size.

        Raises:
            ArtifactError: not fetched, unfinished, or a file is missing or cut.
        """
        manifest = read_record(self.manifest_path, DataManifest, MADE_BY)
        refuse_damaged(self.path, manifest.files, "the data set", shown=_SHOWN)
        return manifest

    def add(self, staged: Path, manifest: DataManifest) -> None:
        """Moves the files of `staged` in, then the manifest, which says that they and the earlier ones are whole.

        Args:
            staged: a folder on the same disk.
            manifest: with what was there before; `files` is completed here.
        """
        brought = record_files(staged)
        for name in brought:
            fsync_file(staged / name)
            target = self.path / name
            make_folder(target.parent)
            (staged / name).replace(target)
        for folder in {(self.path / name).parent for name in brought} | {self.path.parent}:
            fsync_folder(folder)
        files = dict(sorted({**manifest.files, **brought}.items()))
        write_json(self.manifest_path, msgspec.structs.replace(manifest, files=files))


def raw_files(dataset: DatasetConfig) -> tuple[str, ...]:
    """What `prepare` reads: the config's own patterns, or the fetched files that they stand for.

    Raises:
        ArtifactError: the data set of the hub hasn't been fetched, or not all files that the patterns stand for.
        DataError: a pattern stands for none.
    """
    if dataset.hub is None:
        return dataset.raw_files
    folder = DataDir.of(dataset.hub)
    if not folder.path.is_dir():
        raise ArtifactError(f"the data set {dataset.hub.name} hasn't been fetched", f"Run `{MADE_BY}`")
    manifest = folder.open()
    wanted = matching(dataset.hub.name, manifest.offered, dataset.raw_files)
    missing = [name for name in wanted if name not in manifest.files]
    if missing:
        raise ArtifactError(
            f"of the data set {dataset.hub.name}, {_listed(missing)} {'was' if len(missing) == 1 else 'were'} not "
            "fetched: dataset.raw_files asks for more than it did then",
            f"Run `{MADE_BY}`",
        )
    return tuple(str(folder.path / name) for name in wanted)


def matching(data_set: str, offered: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """The files that the patterns stand for, in the patterns' order, each expanded sorted.

    `*` and `?` stay within one folder, `**/` stands for any folders, as in patterns for files on disk.

    Raises:
        DataError: a pattern stands for none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fits = re.compile(_regex(pattern)).fullmatch
        names = [name for name in sorted(offered) if name == pattern or fits(name)]
        if not names:
            has = f"It has {_listed(sorted(offered))}" if offered else "It has no .jsonl, .json, .csv, .tsv or .parquet"
            raise DataError(f"dataset.raw_files: no file of the data set {data_set} is {pattern}", has)
        found.update(dict.fromkeys(names))
    return list(found)


_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(_WILD.get(part) or re.escape(part) for part in parts)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
