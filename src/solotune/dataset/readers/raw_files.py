"""The raw files of a config, and what they were when they were read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from solotune import console
from solotune.artifacts.files import FileRecord
from solotune.dataset.readers import find_files, read_file, unreadable
from solotune.dataset.readers.source import RawRecord
from solotune.errors import DataError


class RawFiles:
    """Raw files by name, with their sizes and hashes."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.paths: dict[str, Path] = find_files(patterns)
        self._stamps = {name: _stamp(path) for name, path in self.paths.items()}
        with console.Progress("hashing raw files", len(self.paths), "files") as bar:
            self.hashes: dict[str, FileRecord] = {}
            for name, path in self.paths.items():
                self.hashes[name] = _record(name, path)
                bar.advance()

    def records(self) -> Iterator[RawRecord]:
        """Every record of every file, in order.

        Raises:
            DataError: a file can't be read at all, or was written to meanwhile.
        """
        for name, path in self.paths.items():
            yield from read_file(path, name)
            if _stamp(path) != self._stamps[name]:
                raise DataError(f"{name} changed while it was read", "Run this again once it is finished")


def _record(name: str, path: Path) -> FileRecord:
    try:
        return FileRecord.of(path)
    except OSError as error:
        raise unreadable(name, error) from error


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
