"""What every reader yields, and how it opens a file."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec

from solotune.dataset.readers.zstd import ZstdFile
from solotune.dataset.reasons import RowProblem
from solotune.errors import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_BYTES = 8 * 1024 * 1024
KEPT_OF_LONG_LINE = 64 * 1024
MAX_UNPACKED_BYTES = 64 * 1024**3
"""Of one file, unpacked where it is packed."""
MAX_RATIO = 200
"""Text of rows packs to a third or a tenth; what unpacks to more than this many times its size is a bomb."""
RATIO_COUNTS_FROM_BYTES = 256 * 1024**2
CHUNK_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"

_UNPACKERS: dict[str, Callable[[Path], io.RawIOBase]] = {
    ".gz": lambda path: cast("io.RawIOBase", gzip.GzipFile(path)),
    ".zst": ZstdFile,
}
PACKED = tuple(_UNPACKERS)


class TableRow(dict[str, Any]):
    """The value of a record whose keys are the columns of a table: there, an empty text may say "none"."""


class RawRecord(msgspec.Struct, frozen=True):
    """One record of a raw file, before anyone has asked whether it is a row."""

    file: str
    line: int
    """Counted from 1: where the record begins; in Parquet, which has no lines, the number of the row."""
    offset: int | None
    """Of its first byte, in the file as uncompressed; None for Parquet."""
    raw: bytes
    """Its bytes as they stand in the file, without the line break; for Parquet the row as JSON."""
    value: Any = msgspec.UNSET
    """The record as a dict, from readers that don't read JSON."""
    problem: RowProblem | None = None
    """What kept the reader from making a value."""
    note: str = ""
    """Key of NOTES: this is no row, only something to report."""


def open_bytes(path: Path) -> BinaryIO:
    """Opens a raw file for reading, uncompressed on the way where its name ends in .gz or .zst.

    Reading raises DataError as soon as a compressed file gives more than the limits allow.
    """
    unpack = _UNPACKERS.get(path.suffix.lower())
    if unpack:
        # GzipFile's own readline is Python; the buffered reader's is not.
        return cast("BinaryIO", io.BufferedReader(_Bounded(path, unpack(path)), CHUNK_BYTES))
    if path.stat().st_size > MAX_UNPACKED_BYTES:
        raise DataError(f"{path} has more than {MAX_UNPACKED_BYTES:,} bytes", "Divide it into several files")
    return path.open("rb", buffering=CHUNK_BYTES)


class UnpackedLimit:
    """Counts what a packed file unpacks to, as long as an honest one may unpack to that much."""

    def __init__(self, path: Path) -> None:
        self._path, self._bytes = path, 0
        self._most = min(MAX_UNPACKED_BYTES, max(RATIO_COUNTS_FROM_BYTES, MAX_RATIO * path.stat().st_size))

    def add(self, size: int) -> None:
        """Raises DataError as soon as it is too much."""
        self._bytes += size
        if self._bytes > self._most:
            raise DataError(
                f"{self._path} unpacks to more than {self._most:,} bytes: the limit is {MAX_RATIO} times its packed "
                f"size (or {RATIO_COUNTS_FROM_BYTES:,} bytes, where that is more), and {MAX_UNPACKED_BYTES:,} bytes",
                "If it is no bomb, unpack it yourself and name the unpacked file, or divide it",
            )


class _Bounded(io.RawIOBase):
    """An unpacked file, as long as it stays within what an honest one unpacks to."""

    def __init__(self, path: Path, unpacked: io.RawIOBase) -> None:
        self._unpacked = unpacked
        self._limit = UnpackedLimit(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        size = self._unpacked.readinto(buffer) or 0
        self._limit.add(size)
        return size

    def close(self) -> None:
        self._unpacked.close()
        super().close()


def read_line(file: BinaryIO) -> tuple[bytes, int]:
    """The next line with its line break, and its length in bytes; of an over-long line only the beginning.

    Memory stays bounded whatever the file holds. Lines end at \\n only: U+2028 and a lone \\r are text.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    size = len(line)
    if size <= MAX_LINE_BYTES or line.endswith(b"\n"):
        return line, size
    line = line[:KEPT_OF_LONG_LINE]
    while rest := file.readline(CHUNK_BYTES):
        size += len(rest)
        if rest.endswith(b"\n"):
            break
    return line, size


def too_long(size: int, what: str = "line") -> RowProblem:
    kept = f"the first {KEPT_OF_LONG_LINE // 1024} KiB are kept here"
    return RowProblem("line_too_long", f"{size:,} bytes, more than {MAX_LINE_BYTES:,}; {kept}", what)
