"""What every reader yields, and how it opens a file."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from solotune.dataset.reasons import RowProblem

MAX_LINE_BYTES = 8 * 1024 * 1024
KEPT_OF_LONG_LINE = 64 * 1024
_CHUNK_BYTES = 1024 * 1024
BOM = b"\xef\xbb\xbf"


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
    """Opens a raw file for reading, uncompressed on the way where its name ends in .gz."""
    if path.suffix.lower() == ".gz":
        # GzipFile's own readline is Python; the buffered reader's is not.
        unzipped = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(path)), _CHUNK_BYTES)
        return cast("BinaryIO", unzipped)
    return path.open("rb", buffering=_CHUNK_BYTES)


def read_line(file: BinaryIO) -> tuple[bytes, int]:
    """The next line with its line break, and its length in bytes; of an over-long line only the beginning.

    Memory stays bounded whatever the file holds. Lines end at \\n only: U+2028 and a lone \\r are text.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    size = len(line)
    if size <= MAX_LINE_BYTES or line.endswith(b"\n"):
        return line, size
    line = line[:KEPT_OF_LONG_LINE]
    while rest := file.readline(_CHUNK_BYTES):
        size += len(rest)
        if rest.endswith(b"\n"):
            break
    return line, size


def too_long(size: int) -> RowProblem:
    kept = f"the first {KEPT_OF_LONG_LINE // 1024} KiB are kept here"
    return RowProblem("line_too_long", f"{size:,} bytes, more than {MAX_LINE_BYTES:,}; {kept}", "line")
