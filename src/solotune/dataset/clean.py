"""Rows that are kept, rows that are left out, and the proof that there is no third kind."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from solotune.dataset.contract import Row
from solotune.dataset.readers.source import RawRecord
from solotune.dataset.reasons import RowProblem


@dataclass
class Counts:
    """What became of the records. rows_in == kept + duplicates + quarantined."""

    rows_in: int = 0
    kept: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Quarantined rows by reason code."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was passed over and isn't a row."""

    @property
    def quarantined(self) -> int:
        return self.reasons.total()

    def check_conservation(self) -> None:
        assert self.rows_in == self.kept + self.duplicates + self.quarantined, f"rows were lost: {self}"


class Clean(NamedTuple):
    """A row that keeps every rule."""

    row: Row
    file: str
    line: int
    is_duplicate: bool
    """An earlier row says the same; it isn't kept, but what it declares still counts."""


def clean(
    records: Iterable[RawRecord],
    parse: Callable[[RawRecord], Row],
    quarantine: Callable[[RawRecord, RowProblem], None],
    counts: Counts,
) -> Iterator[Clean]:
    """Yields the rows that keep every rule, in order; hands the others to `quarantine`.

    Two rows are duplicates when they have the same turns, up to canonical Unicode form (NFC) and white space
    at the ends of a content; the first one is kept. An id that comes back with other turns is a mistake: the
    later row is quarantined.
    """
    seen: set[bytes] = set()
    ids: set[str] = set()
    for record in records:
        if record.note:
            counts.notes[record.note] += 1
            continue
        counts.rows_in += 1
        try:
            row = parse(record)
            said = digest(row)
            is_duplicate = said in seen
            if not is_duplicate:
                _claim(row.id, ids)
        except RowProblem as problem:
            counts.reasons[problem.code] += 1
            quarantine(record, problem)
            continue
        if is_duplicate:
            counts.duplicates += 1
        else:
            seen.add(said)
            counts.kept += 1
        yield Clean(row, record.file, record.line, is_duplicate)
    counts.check_conservation()


def _claim(row_id: str, ids: set[str]) -> None:
    if row_id in ids:
        raise RowProblem("duplicate_id", f"the id {row_id!r} belongs to an earlier row", "$.id")
    ids.add(row_id)


def digest(row: Row) -> bytes:
    """What a row says, normalised, in 16 bytes.

    No content holds a NUL, so none can pass for two; who speaks follows from the number of turns, which is
    odd with a system message and even without.
    """
    text = "\0".join([m.content.strip() for m in row.messages])
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return hashlib.sha256(text.encode()).digest()[:16]


def quarantine_line(record: RawRecord, problem: RowProblem) -> dict[str, Any]:
    """A line of quarantine.jsonl. The bytes are verbatim: as text where they are UTF-8, else in base 64."""
    line: dict[str, Any] = {
        "file": record.file,
        "line": record.line,
        "offset": record.offset,
        "code": problem.code,
        "message": str(problem),
    }
    try:
        line["raw"] = record.raw.decode("utf-8")
    except UnicodeDecodeError:
        line["raw_base64"] = record.raw
    return line
