"""From file names to records. A file type is one file here: a `read(path, name)` and its line in READERS."""

from __future__ import annotations

import glob
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from solotune.dataset.readers import delimited, json_array, jsonl, parquet
from solotune.dataset.readers.source import PACKED, RawRecord
from solotune.errors import DataError

READERS: dict[str, Callable[[Path, str], Iterator[RawRecord]]] = {
    ".jsonl": jsonl.read,
    ".json": json_array.read,
    ".csv": delimited.read_csv,
    ".tsv": delimited.read_tsv,
    ".parquet": parquet.read,
}
_NEVER_PACKED = {".parquet"}


def find_files(patterns: Sequence[str]) -> dict[str, Path]:
    """The raw files, by the name that reports and manifests use: relative to the repository if in it.

    Patterns are taken in their order and expand sorted; a file that two of them name is read once.

    Raises:
        DataError: a pattern matches nothing, or a file is of a type that can't be read.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        try:
            paths = _expand(pattern)
        except OSError as error:
            raise unreadable(pattern, error) from error
        for path in paths:
            _reader_of(path)
            found.setdefault(path.resolve(), path)
    return {_name_of(path): path for path in found.values()}


def read_file(path: Path, name: str) -> Iterator[RawRecord]:
    """The records of one file, in order.

    Raises:
        DataError: it can't be read at all.
    """
    try:
        yield from _reader_of(path)(path, name)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: Exception) -> DataError:
    what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(
        f"can't read {name}: {' '.join(what.split())}", "Check the file and its permissions, or copy it again"
    )


def _expand(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_dir():
        raise DataError(f"dataset.raw_files: {pattern} is a folder", f"Name the files in it: {path}/*.jsonl")
    if path.exists():
        return [path]
    # Path.glob takes no absolute pattern.
    paths = sorted(Path(p) for p in glob.glob(pattern, recursive=True))  # noqa: PTH207
    paths = [p for p in paths if not p.is_dir()]
    if not paths:
        what = f"nothing matches {pattern}" if glob.has_magic(pattern) else f"there is no file {pattern}"
        raise DataError(f"dataset.raw_files: {what}", f"Paths are relative to {Path.cwd()}")
    return paths


def _reader_of(path: Path) -> Callable[[Path, str], Iterator[RawRecord]]:
    name = path.name.lower()
    packed = name.endswith(PACKED)
    suffix = Path(name).with_suffix("").suffix if packed else Path(name).suffix
    if suffix not in READERS or (packed and suffix in _NEVER_PACKED):
        known = " ".join(READERS)
        raise DataError(
            f"{path} is of a type that can't be read",
            f"Known ends are {known}, and {' or '.join(PACKED)} after those that are text",
        )
    return READERS[suffix]


def _name_of(path: Path) -> str:
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()
