"""CSV and TSV: a header, then a record a line (or several, where a quoted cell has line breaks)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from solotune.dataset.readers.source import BOM, MAX_LINE_BYTES, RawRecord, open_bytes, read_line, too_long
from solotune.dataset.reasons import RowProblem
from solotune.errors import DataError


def read_csv(path: Path, name: str) -> Iterator[RawRecord]:
    return _read(path, name, ",")


def read_tsv(path: Path, name: str) -> Iterator[RawRecord]:
    return _read(path, name, "\t")


def _read(path: Path, name: str, delimiter: str) -> Iterator[RawRecord]:
    """Yields every record as {column: cell}; cells are text.

    Raises:
        DataError: no usable header, or a quote that is never closed: what follows it can't be told apart.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    with open_bytes(path) as file:
        lines = _Lines(file)
        records = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            lines.start_record()
            problem, cells = None, []
            try:
                cells = next(records)
            except StopIteration:
                break
            except csv.Error as error:
                problem = _problem(error, name, lines)
            problem = lines.problem or problem
            raw = b"".join(lines.taken).removesuffix(b"\n")
            if raw.startswith(BOM):
                if lines.first == 1:
                    yield RawRecord(name, 1, 0, BOM, note="bom")
                else:
                    problem = RowProblem("bom_inside", "U+FEFF before the first cell", "record")
            if not problem and not raw.strip(b" \t\r" if delimiter == "," else b" \r"):
                yield RawRecord(name, lines.first, lines.offset, raw, note="blank_line")
            elif header is None:
                header = _header(name, cells, problem)
            elif problem or len(cells) != len(header):
                problem = problem or RowProblem(
                    "invalid_csv", f"{len(cells)} cells, but the header has {len(header)}", "record"
                )
                yield RawRecord(name, lines.first, lines.offset, raw, problem=problem)
            else:
                yield RawRecord(name, lines.first, lines.offset, raw, dict(zip(header, cells, strict=True)))
    if header is None:
        raise DataError(f"{name} is empty", "Its first line names the columns")


class _Lines:
    """Feeds csv.reader, and remembers what the record at hand is made of."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._next_line, self._next_offset = 1, 0
        self.start_record()

    def start_record(self) -> None:
        self.first, self.offset = self._next_line, self._next_offset
        self.taken: list[bytes] = []
        self.problem: RowProblem | None = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, size = read_line(self._file)
        if not size:
            raise StopIteration
        self.taken.append(line)
        self._next_line += 1
        self._next_offset += size
        if size > len(line):
            self.problem = too_long(size)
            return "\n"
        try:
            return line.decode("utf-8-sig" if self._next_line == 2 else "utf-8")
        except UnicodeDecodeError as error:
            line_number = self._next_line - 1
            self.problem = RowProblem(
                "invalid_utf8",
                f"byte 0x{line[error.start]:02x} at position {error.start}",
                f"line {line_number}",
            )
            return line.decode("utf-8", "replace")


def _problem(error: csv.Error, name: str, lines: _Lines) -> RowProblem:
    if "unexpected end of data" in str(error) or "field larger than" in str(error):
        raise DataError(
            f"{name}:{lines.first}: a quote that opens in this record is never closed, or not within 8 MiB",
            'Close it; a quote inside a quoted cell is written twice ("")',
        ) from None
    return RowProblem("invalid_csv", str(error).split(" - ")[0], "record")


def _header(name: str, cells: list[str], problem: RowProblem | None) -> list[str]:
    if problem:
        raise DataError(f"{name}: the header can't be read ({problem})", "The first line names the columns")
    twice = sorted({c for c in cells if cells.count(c) > 1})
    if twice or not all(c.strip() for c in cells):
        what = f"has the column {twice[0]!r} twice" if twice else "has a column without a name"
        raise DataError(f"{name}: the header {what}", "The first line names the columns, each once")
    return cells
