"""Rows that are kept, rows that are left out, and the proof that there is no third kind."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from solotune.dataset.contract import Checked
from solotune.dataset.digests import DigestSet, digest_of
from solotune.dataset.readers.source import RawRecord
from solotune.dataset.reasons import RowProblem, shortened

_ROWS_AT_ONCE = 64
"""Few, so that one row which must be looked at by itself takes few others with it."""
_BYTES_AT_ONCE = 1024 * 1024


@dataclass
class Counts:
    """What became of the records. rows_in == kept + duplicates + quarantined."""

    rows_in: int = 0
    kept: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Quarantined rows by reason code."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was seen and left no row out, by key of NOTES."""
    by_file: Counter[str] = field(default_factory=Counter)
    """Rows in, by raw file."""

    @property
    def quarantined(self) -> int:
        return self.reasons.total()

    def check_conservation(self) -> None:
        assert self.rows_in == self.kept + self.duplicates + self.quarantined, f"rows were lost: {self}"


class Clean(msgspec.Struct, frozen=True, gc=False):
    """A row that keeps every rule."""

    checked: Checked
    file: str
    line: int
    is_duplicate: bool
    """An earlier row says the same; it isn't kept, but what it declares still counts."""


def clean(
    records: Iterable[RawRecord],
    parse_many: Callable[[Sequence[RawRecord]], Sequence[Checked | RowProblem]],
    quarantine: Callable[[RawRecord, RowProblem], None],
    counts: Counts,
) -> Iterator[Clean]:
    """Yields the rows that keep every rule, in order; hands the others to `quarantine`.

    Two rows are duplicates when they have the same turns, up to canonical Unicode form (NFC) and white space
    at the ends of a content; the first one is kept. An id that comes back with other turns is a mistake: the
    later row is quarantined.
    """
    seen, ids, notes = DigestSet(), _Ids(), counts.notes

    def leave_out(record: RawRecord, problem: RowProblem) -> None:
        counts.reasons[problem.code] += 1
        quarantine(record, problem)

    for batch in _batches(records, counts):
        for record, checked in zip(batch, parse_many(batch), strict=True):
            if isinstance(checked, RowProblem):
                leave_out(record, checked)
                continue
            said = checked.said
            if not seen.add(what := digest(said)):
                counts.duplicates += 1
                yield Clean(checked, record.file, record.line, True)
                continue
            try:
                if ids.claim(checked.row.id):
                    notes["id_collision"] += 1
            except RowProblem as problem:
                seen.take_back(what)
                leave_out(record, problem)
                continue
            counts.kept += 1
            if checked.has_control_token:
                notes["control_token"] += 1
            if not said.isascii():
                notes.update(_notes_on(said.decode()))
            yield Clean(checked, record.file, record.line, False)
    counts.check_conservation()


def _batches(records: Iterable[RawRecord], counts: Counts) -> Iterator[list[RawRecord]]:
    """Yields the rows among the records, some at once, and counts them and what is no row."""
    batch: list[RawRecord] = []
    size = 0

    def counted() -> list[RawRecord]:
        counts.rows_in += len(batch)
        counts.by_file[batch[0].file] += len(batch)
        return batch

    for record in records:
        if record.note:
            counts.notes[record.note] += 1
            continue
        if batch and (len(batch) >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE or record.file != batch[0].file):
            yield counted()
            batch, size = [], 0
        batch.append(record)
        size += len(record.raw)
    if batch:
        yield counted()


class _Ids:
    """The ids of the rows so far, and what they look like where neither case nor compatibility forms count."""

    def __init__(self) -> None:
        self._exact = DigestSet()
        self._folded: DigestSet | None = None
        """Only of ids that differ from their folded form: that of the others is in `_exact`."""

    def claim(self, row_id: str) -> bool:
        """Whether an earlier id would be the same file name on a machine that folds names.

        Raises:
            RowProblem: an earlier row has this very id.
        """
        if not self._exact.add(row_id):
            raise RowProblem("duplicate_id", f"the id {shortened(row_id)} belongs to an earlier row", "$.id")
        folded = _fold(row_id)
        if folded == row_id:
            return self._folded is not None and row_id in self._folded
        if self._folded is None:
            self._folded = DigestSet()
        return not self._folded.add(folded) or folded in self._exact


def _fold(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def digest(said: bytes) -> bytes:
    """What a row says (`Checked.said`), normalised, in 16 bytes.

    No content holds a NUL, so none can pass for two; who speaks follows from the number of turns, which is
    odd with a system message and even without.
    """
    return digest_of(said if said.isascii() else unicodedata.normalize("NFC", said.decode()).encode())


# Zero width, soft hyphen, direction overrides and isolates, tag characters. Not the joiners and marks that
# emoji, Persian, Hebrew and Indic texts need (U+200C to U+200F).
_INVISIBLE = re.compile("[\u00ad\u200b\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


def _notes_on(text: str) -> list[str]:
    notes = []
    if not unicodedata.is_normalized("NFC", text):
        notes.append("not_nfc")
    if _INVISIBLE.search(text):
        notes.append("invisible_character")
    return notes


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
