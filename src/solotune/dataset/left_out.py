"""quarantine.jsonl read again: for each reason, a few of the rows that were left out for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec


class LeftOut(msgspec.Struct, frozen=True):
    """A line of quarantine.jsonl."""

    file: str
    line: int
    code: str
    message: str
    raw: str | None = None
    raw_base64: bytes = b""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def text(self) -> str:
        """The row as it came; a byte that is no UTF-8 as an escape."""
        return self.raw if self.raw is not None else self.raw_base64.decode("utf-8", "backslashreplace")


def first_of_each(quarantine: Path, count: int) -> dict[str, list[LeftOut]]:
    """The first `count` rows of each reason, by its code."""
    code_of = msgspec.json.Decoder(_Code).decode
    decode = msgspec.json.Decoder(LeftOut).decode
    found: dict[str, list[LeftOut]] = {}
    with quarantine.open("rb") as lines:
        for line in lines:
            some = found.setdefault(code_of(line).code, [])
            if len(some) < count:
                some.append(decode(line))
    return found


def spread_over_lines(quarantine: Path, rows_by_file: Mapping[str, int]) -> tuple[str, str]:
    """The first file most of whose rows are here, beginning with a bracket alone; and that bracket. Both empty: none.

    So look JSON objects, or an array of them, that were written over several lines where each was to have one.
    """
    decode = msgspec.json.Decoder(LeftOut).decode
    left_out: Counter[str] = Counter()
    brackets: dict[str, str] = {}
    with quarantine.open("rb") as lines:
        for row in map(decode, lines):
            if row.file not in left_out and row.code == "invalid_json" and row.text.strip() in ("{", "["):
                brackets[row.file] = row.text.strip()
            left_out[row.file] += 1
    found = (item for item in brackets.items() if left_out[item[0]] > rows_by_file[item[0]] / 2)
    return next(found, ("", ""))


class _Code(msgspec.Struct):
    code: str
