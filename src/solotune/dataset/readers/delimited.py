"""CSV and TSV: a header, then a record a line (or several, where a quoted cell has line breaks).

Where a record ends is decided here, by its quotes (RFC 4180); csv only cuts it into cells. So what follows a broken
record is never the tail of one: a record with a quote inside a quoted cell that isn't doubled ends where both
readings of that quote, as text and as the end of its cell, are outside of quotes. Where they don't come to agree
within 8 MiB or before the end of the file, the file is refused: a line of it may be a row or a part of one.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from solotune.dataset.readers.source import (
    BOM,
    CHUNK_BYTES,
    KEPT_OF_LONG_LINE,
    MAX_LINE_BYTES,
    RawRecord,
    TableRow,
    open_bytes,
    too_long,
)
from solotune.dataset.reasons import RowProblem, shortened
from solotune.errors import DataError

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def read_csv(path: Path, name: str) -> Iterator[RawRecord]:
    return _read(path, name, ",")


def read_tsv(path: Path, name: str) -> Iterator[RawRecord]:
    return _read(path, name, "\t")


def _read(path: Path, name: str, delimiter: str) -> Iterator[RawRecord]:
    """Yields every record as {column: cell}; cells are text.

    Raises:
        DataError: no usable header, or quotes that leave open where a record ends.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    blanks = b" \t\r" if delimiter == "," else b" \r"
    header: list[str] | None = None
    with open_bytes(path) as file:
        for record in _records(file, name, delimiter):
            line, offset, raw, problem = record
            if raw == BOM and (line, offset) == (1, 0):
                yield RawRecord(name, line, offset, raw, note="bom")
                continue
            if not problem and not raw.strip(blanks):
                yield RawRecord(name, line, offset, raw, note="blank_line")
                continue
            cells: list[str] = []
            if not problem:
                try:
                    cells = _cells(record, delimiter)
                except RowProblem as found:
                    problem = found
            if header is None:
                header = _header(name, record, cells, problem, delimiter)
                continue
            if not problem and len(cells) != len(header):
                problem = RowProblem("invalid_csv", f"{len(cells)} cells, but the header has {len(header)}", "record")
            if problem:
                yield RawRecord(name, line, offset, raw, problem=problem)
            else:
                yield RawRecord(name, line, offset, raw, TableRow(zip(header, cells, strict=True)))
    if header is None:
        raise DataError(f"{name} is empty", "Its first line names the columns")


class _Record(NamedTuple):
    line: int
    offset: int
    raw: bytes
    """Without the last line break; of an over-long record only the beginning."""
    problem: RowProblem | None


def _records(file: BinaryIO, name: str, delimiter: str) -> Iterator[_Record]:
    """The records, and a byte order mark at the start of the file by itself, in bounded memory."""
    line, offset = 1, 0
    piece = file.readline(MAX_LINE_BYTES + 1)
    if piece.startswith(BOM):
        yield _Record(1, 0, BOM, None)
        offset, piece = len(BOM), piece[len(BOM) :]
        if not piece:
            return
    while piece:
        if b'"' not in piece and piece.endswith(b"\n") and len(piece) <= MAX_LINE_BYTES and piece[:1] != BOM[:1]:
            # Most lines: nothing to follow.
            raw, problem, size, lines = piece[:-1], None, len(piece), 1
        else:
            raw, problem, size, lines = _followed(file, piece, f"{name}:{line}", delimiter)
        yield _Record(line, offset, raw, problem)
        line, offset = line + lines, offset + size
        piece = file.readline(MAX_LINE_BYTES + 1)


def _followed(file: BinaryIO, piece: bytes, at: str, delimiter: str) -> tuple[bytes, RowProblem | None, int, int]:
    """The record that begins with this piece: what is kept of it, its problem, its bytes and its line breaks."""
    begins_with_bom = piece.startswith(BOM)
    quotes, kept, size, lines, is_long = _Quotes(delimiter.encode()), bytearray(), 0, 0, False
    while piece:
        quotes.feed(piece.removeprefix(BOM) if begins_with_bom and not size else piece)
        ends = piece.endswith(b"\n")
        size, lines = size + len(piece), lines + ends
        if not is_long:
            kept += piece
            if is_long := size - ends > MAX_LINE_BYTES:
                kept = kept[:KEPT_OF_LONG_LINE]
        if ends and quotes.are_closed:
            break
        if ends and is_long and quotes.problem:
            raise _undecided(at, quotes, "within 8 MiB")
        piece = file.readline(CHUNK_BYTES)
    if not quotes.are_closed:
        raise _undecided(at, quotes, "before the file ends")
    problem = RowProblem("invalid_csv", quotes.problem, "record") if quotes.problem else None
    if begins_with_bom:
        problem = RowProblem("bom_inside", "U+FEFF before the first cell", "record")
    if is_long:
        problem = too_long(size, "record")
    return bytes(kept if is_long else kept.removesuffix(b"\n")), problem, size, lines


class _Quotes:
    """Follows the quotes of one record, which may come in pieces."""

    def __init__(self, delimiter: bytes) -> None:
        self.problem = ""
        """The first breach of RFC 4180."""
        self._delimiter = delimiter
        self._blanks = _SPACES if delimiter == b"\t" else _SPACES_AND_TABS
        self._state = _OUTSIDE
        self._cell_has = b""
        """What came of the cell at hand before this piece; of text, only that there is some."""
        self._count = 0
        self._is_ambiguous = False

    @property
    def are_closed(self) -> bool:
        """Whether the record may end here. Once a quote is ambiguous, both readings must have it so.

        One takes such a quote as text (`_state`), the other as the end of a quoted part: then every other quote opens.
        """
        return self._state != _INSIDE and not (self._is_ambiguous and self._count % 2)

    def feed(self, piece: bytes) -> None:
        count, at = piece.count(b'"'), 0
        if not count and self._state == _INSIDE:
            return
        self._count += count
        while at < len(piece):
            if self._state == _OUTSIDE:
                at = self._outside(piece, at)
            elif self._state == _INSIDE:
                at = _QUOTED.match(piece, at).end()  # type: ignore[union-attr]  # it matches nothing, too
                if at < len(piece):
                    self._state, at = _AFTER_QUOTE, at + 1
            else:
                at = self._after_quote(piece, at)

    def _outside(self, piece: bytes, at: int) -> int:
        quote = piece.find(b'"', at)
        text = piece[at : quote if quote >= 0 else len(piece)]
        begin = 1 + max(text.rfind(mark) for mark in (self._delimiter, b"\n", b"\r"))
        before = text[begin:] if begin else self._cell_has + text
        is_blank = self._blanks.fullmatch(before) is not None
        if quote < 0:
            self._cell_has = before[:1] if is_blank else b"x"
            return len(piece)
        if is_blank:
            # With blanks before it, it may open a quoted cell to whoever wrote this.
            self._state, self._cell_has = _INSIDE, b""
            if before:
                self._found("white space before an opening quote")
        else:
            self._cell_has = b"x"
            self._found("a quote in a cell that isn't quoted")
        return quote + 1

    def _after_quote(self, piece: bytes, at: int) -> int:
        blanks = self._blanks.match(piece, at)
        end = blanks.end() if blanks else at
        following = piece[end : end + 1]
        if end > at:
            self._state = _AFTER_BLANK
        if not following:
            return end
        if following == b'"' and self._state == _AFTER_QUOTE:  # doubled, with its halves in two pieces
            self._state = _INSIDE
            return at + 1
        if following in (self._delimiter, b"\n", b"\r"):
            if self._state == _AFTER_BLANK:
                self._found("white space after a closing quote")
            self._state = _OUTSIDE
            return end
        self._found("a quote inside a quoted cell isn't doubled")
        self._is_ambiguous, self._state = True, _INSIDE
        return end

    def _found(self, problem: str) -> None:
        self.problem = self.problem or problem


_OUTSIDE, _INSIDE, _AFTER_QUOTE, _AFTER_BLANK = range(4)
# Possessive: no file makes them slow.
_QUOTED = re.compile(rb'[^"]*+(?:""[^"]*+)*+')
_SPACES, _SPACES_AND_TABS = re.compile(rb" *+"), re.compile(rb"[ \t]*+")


def _undecided(at: str, quotes: _Quotes, where: str) -> DataError:
    if quotes.problem:
        what = f"a record breaks its quoting ({quotes.problem}), and where it ends can't be told {where}"
    else:
        what = f"a quote that opens in this record is never closed ({where})"
    return DataError(f"{at}: {what}", 'Close it; a quote inside a quoted cell is written twice ("")')


def _cells(record: _Record, delimiter: str) -> list[str]:
    """Raises RowProblem."""
    raw = record.raw
    try:
        return next(csv.reader([raw.decode()], delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        line = record.line + raw.count(b"\n", 0, error.start)
        position = error.start - raw.rfind(b"\n", 0, error.start) - 1
        raise RowProblem(
            "invalid_utf8", f"byte 0x{raw[error.start]:02x} at position {position}", f"line {line}"
        ) from None
    except csv.Error as error:
        raise RowProblem("invalid_csv", str(error).split(" - ")[0], "record") from None


def _header(name: str, record: _Record, cells: list[str], problem: RowProblem | None, delimiter: str) -> list[str]:
    text = record.raw.decode("utf-8", "replace")
    one_cell = cells[0] if len(cells) == 1 else text if problem and delimiter not in text else ""
    if others := [mark for mark in _SEPARATORS if mark in one_cell]:
        raise _wrong_separator(name, text, others[0], delimiter)
    if problem:
        raise DataError(f"{name}: the header can't be read ({problem})", "The first line names the columns")
    twice = sorted(c for c, count in Counter(cells).items() if count > 1)
    if twice or not all(c.strip() for c in cells):
        what = f"has the column {twice[0]!r} twice" if twice else "has a column without a name"
        raise DataError(f"{name}: the header {what}", "The first line names the columns, each once")
    return cells


def _wrong_separator(name: str, header: str, found: str, delimiter: str) -> DataError:
    what = f"{name}: the header is one column, {shortened(header.strip())}"
    if found == delimiter:
        return DataError(what, "Take away the quotes around the whole line")
    kind = ".tsv" if delimiter == "\t" else ".csv"
    what += f"; in a {kind} file {_SEPARATORS[delimiter]} divide the columns, not {_SEPARATORS[found]}"
    if found in ",\t":
        return DataError(what, f"If they divide them here, name it {'.csv' if found == ',' else '.tsv'}")
    convert = f"pandas.read_csv(old, sep={found!r}, dtype=str, keep_default_na=False).to_csv(new, index=False)"
    return DataError(what, f"Save it again with {_SEPARATORS[delimiter]}, or convert it to .csv: {convert}")
