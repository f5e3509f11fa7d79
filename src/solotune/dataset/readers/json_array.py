"""A JSON file that is one array of records.

The array is cut into its elements without being parsed, so that a broken element costs one row, as long as its
quotes and brackets are closed; one that isn't costs the file, since where it ends can't be told. Unlike JSON lines,
which are streamed, such a file is held in memory, and may have 2 GiB at most (unpacked, where it is compressed).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from solotune.dataset.readers.source import (
    BOM,
    KEPT_OF_LONG_LINE,
    MAX_LINE_BYTES,
    RawRecord,
    open_bytes,
    too_long,
)
from solotune.errors import DataError

MAX_FILE_BYTES = 2 * 1024**3

# A string is passed over whole: brackets and commas in it mean nothing. Possessive: no file makes it slow.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
_SPACES = re.compile(rb"[ \t\r\n]*+")


def read(path: Path, name: str) -> Iterator[RawRecord]:
    """Yields every element of the array, in order; decoding is left to the contract.

    Raises:
        DataError: the file isn't one whole array, or is too large to be held in memory.
    """
    with open_bytes(path) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise DataError(f"{name} has more than {MAX_FILE_BYTES:,} bytes", "Write it as .jsonl: that is streamed")
    if data.startswith(BOM):
        yield RawRecord(name, 1, 0, BOM, note="bom")
    line, seen = 1, 0
    for start, end in _elements(data, name):
        line += data.count(b"\n", seen, start)
        seen = start
        if end - start > MAX_LINE_BYTES:
            kept = data[start : start + KEPT_OF_LONG_LINE]
            yield RawRecord(name, line, start, kept, problem=too_long(end - start))
        else:
            yield RawRecord(name, line, start, data[start:end])


def _elements(data: bytes, name: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each element, white space around it left out."""
    opening = _after_spaces(data, len(BOM) if data.startswith(BOM) else 0)
    if data[opening : opening + 1] != b"[":
        raise DataError(
            f"{name} isn't a JSON array",
            "One object on each line: name it .jsonl. Rows inside an object: write them alone",
        )
    depth, start = 0, opening + 1
    for token in _TOKEN.finditer(data, opening):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        if depth > 1 or (depth == 1 and mark != b","):
            continue
        begin = _after_spaces(data, start)
        # An empty array has no element; an empty place before or after a comma is one, and a broken one.
        if begin < token.start() or mark == b"," or start > opening + 1:
            yield begin, begin + len(data[begin : token.start()].rstrip(b" \t\r\n"))
        start = token.end()
        if depth == 0:
            if mark != b"]" or _after_spaces(data, start) < len(data):
                raise DataError(f"{name} isn't one array: it ends at byte {start:,}", "Repair or cut what follows")
            return
    raise DataError(
        f"{name} ends inside its array",
        "Either the file was cut: copy it again; or an element has a quote or bracket that isn't closed: as .jsonl, "
        "one element on each line, it would cost its row only",
    )


def _after_spaces(data: bytes, start: int) -> int:
    found = _SPACES.match(data, start)
    return found.end() if found else start
