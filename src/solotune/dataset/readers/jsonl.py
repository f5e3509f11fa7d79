"""JSON Lines: one document a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from solotune.dataset.readers.source import BOM, RawRecord, open_bytes, read_line, too_long


def read(path: Path, name: str) -> Iterator[RawRecord]:
    """Yields every line, in order; decoding is left to the contract."""
    with open_bytes(path) as file:
        number = offset = 0
        while True:
            line, size = read_line(file)
            if not size:
                return
            number += 1
            start, offset = offset, offset + size
            cut = size > len(line)
            if number == 1 and line.startswith(BOM):
                yield RawRecord(name, 1, 0, BOM, note="bom")
                line, start = line[len(BOM) :], start + len(BOM)
            raw = line.removesuffix(b"\n")
            if cut:
                yield RawRecord(name, number, start, raw, problem=too_long(size))
            elif raw.strip(b" \t\r"):
                yield RawRecord(name, number, start, raw)
            elif line:
                yield RawRecord(name, number, start, raw, note="blank_line")
