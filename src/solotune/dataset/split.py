"""Which side a row is on: by what its user asks first, never by where it stands.

Rows with the same system message and first user turn (up to case, white space and compatibility forms) are a
group, and a group is never divided. A group's side is the one its rows declare in `meta.split`; else it is
drawn by hash of (seed, group), so that it stays where it is whatever rows come, go or change places.
"""

from __future__ import annotations

import hashlib
import unicodedata

import msgspec

from solotune.config.schema import DatasetConfig, Split
from solotune.dataset.contract import Row
from solotune.errors import DataError

GROUP_BYTES = 16
_CONFLICTS_SHOWN = 5


class Splitter:
    """Assigns groups to sides. `declare` all rows first, then ask `side_of`."""

    def __init__(self, dataset: DatasetConfig) -> None:
        self._hash = hashlib.sha256(b"split-v1\0" + str(dataset.seed).encode() + b"\0")
        # Test comes first on the line from 0 to 1: a larger val_fraction moves no row out of test.
        self._test_below = dataset.test_fraction
        self._val_below = dataset.test_fraction + dataset.val_fraction
        self._declared: dict[bytes, tuple[Split, str, int]] = {}
        self._conflicts: list[str] = []
        self._conflict_count = 0

    def group_of(self, row: Row) -> bytes:
        """The digest that a row's group is known by; its first 8 bytes are the draw."""
        digest = self._hash.copy()
        digest.update(group_key(row))
        return digest.digest()[:GROUP_BYTES]

    def declare(self, row: Row, group: bytes, file: str, line: int) -> None:
        """Notes what `row`, which stands at `file`:`line`, says about its side."""
        split = row.meta.split
        if isinstance(split, msgspec.UnsetType):
            return
        known = self._declared.setdefault(group, (split, file, line))
        if known[0] != split:
            self._conflict_count += 1
            if len(self._conflicts) < _CONFLICTS_SHOWN:
                self._conflicts.append(f"{known[1]}:{known[2]} says {known[0]}, {file}:{line} says {split}")

    def check_declarations(self) -> None:
        """Raises DataError where rows of one group are declared to be on two sides."""
        if self._conflicts:
            shown = "; ".join(self._conflicts)
            if more := self._conflict_count - len(self._conflicts):
                shown += f"; and {more:,} more"
            raise DataError(
                f"rows that ask the same are declared for two splits: {shown}",
                "What is trained on can't be measured on: give them the same meta.split",
            )

    def side_of(self, group: bytes) -> Split:
        declared = self._declared.get(group)
        if declared:
            return declared[0]
        draw = int.from_bytes(group[:8], "big") / 2**64
        if draw < self._test_below:
            return "test"
        return "val" if draw < self._val_below else "train"


def group_key(row: Row) -> bytes:
    """The system message and first user turn, normalised: NFKC, casefold, white space collapsed."""
    first = row.messages[0]
    if first.role == "system":
        return _normalised(first.content) + b"\0" + _normalised(row.messages[1].content)
    return b"\0" + _normalised(first.content)


def _normalised(text: str) -> bytes:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).encode()
