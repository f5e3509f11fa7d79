"""Which side a row is on: by the group that it belongs to, never by where it stands.

A group is what a row declares in `meta.group`; else the rows with the same system message and first user turn (up
to case, white space and compatibility forms). It is never divided. Its side is the one that its rows declare in
`meta.split`; else it is drawn by hash of (seed, group), so that it stays where it is whatever rows come, go or
change places, unless one that comes joins it to another group.

Groups that may not be on two sides are joined: a declared group with whatever begins as one of its rows does, and
near-duplicates where `dataset.dedup.near: cluster` asks for it. Joined groups lie where their leader lies.
"""

from __future__ import annotations

import hashlib
import unicodedata

import msgspec

from solotune.config.schema import DatasetConfig, Split
from solotune.dataset.contract import NO_META, Row
from solotune.errors import DataError

GROUP_BYTES = 16
_CONFLICTS_SHOWN = 5
_Place = tuple[Split, str, int]


class Splitter:
    """Assigns groups to sides. `declare` all rows first, then ask `side_of`.

    In memory: 300 bytes for each group that declares a split, 250 for each beginning of rows that declare a group.
    """

    def __init__(self, dataset: DatasetConfig) -> None:
        self._prefix = b"split-v1\0" + str(dataset.seed).encode() + b"\0"
        # Test comes first on the line from 0 to 1: a larger val_fraction moves no row out of test.
        self._test_below = _share(dataset.test_fraction)
        self._val_below = _share(dataset.test_fraction + dataset.val_fraction)
        self._joined = JoinedGroups()
        self._declared: dict[bytes, _Place] = {}
        self._declared_by_joined: dict[bytes, _Place] = {}
        self._conflicts = _Conflicts()

    def group_of(self, row: Row) -> bytes:
        """The digest that a row's group is known by: eight bytes to draw with, eight that say who leads."""
        if row.meta.group:
            return self._digest(declared_key(row.meta.group), leads=True)
        return self._digest(group_key(row), leads=False)

    def declare(self, row: Row, file: str, line: int) -> bytes:
        """Notes what `row`, which stands at `file`:`line`, says about its group and its side; returns the group."""
        group = self.group_of(row)
        if row.meta is NO_META:
            return group
        if row.meta.group:
            self._joined.join(group, self._digest(group_key(row), leads=False))
        split = row.meta.split
        if not isinstance(split, msgspec.UnsetType):
            known = self._declared.setdefault(group, (split, file, line))
            if known[0] != split:
                self._conflicts.add(known, (split, file, line))
        return group

    def join(self, one: bytes, other: bytes) -> None:
        """Puts two groups on one side. `check_declarations` again, before the next `side_of`."""
        self._joined.join(one, other)

    def leader(self, group: bytes) -> bytes:
        """The group with which `group` lies: itself, where nothing was joined to it."""
        return self._joined.leader(group) if self._joined else group

    def check_declarations(self, of: str = "rows of one group") -> None:
        """Raises DataError where `of`, which can't be divided, are declared to be on two sides."""
        conflicts = self._conflicts
        self._declared_by_joined = {}
        if self._joined:
            for group, place in self._declared.items():
                known = self._declared_by_joined.setdefault(self.leader(group), place)
                if known[0] != place[0]:
                    conflicts.add(known, place)
        conflicts.refuse(of)

    @property
    def only_draws(self) -> bool:
        """Whether no row declares anything, so that every side is the one that was drawn."""
        return not self._declared and not self._joined

    def side_of(self, group: bytes) -> Split:
        if self._declared or self._joined:
            group = self.leader(group)
            declared = self._declared_by_joined.get(group) or self._declared.get(group)
            if declared:
                return declared[0]
        # Bytes compare as the numbers that they are, the first eight of them.
        if group < self._test_below:
            return "test"
        return "val" if group < self._val_below else "train"

    def _digest(self, key: bytes, *, leads: bool) -> bytes:
        found = hashlib.sha256(self._prefix + key).digest()[:GROUP_BYTES]
        # A declared group leads those that are known by their first turns: who begins alike may come and go.
        if leads == (found[8] < 0x80):
            return found
        return b"%b%c%b" % (found[:8], found[8] ^ 0x80, found[9:])


class JoinedGroups:
    """Groups that lie together, and the one of them that decides where.

    The leader is the smallest by the digest's second half, which has no part in the draw: a cluster is as likely
    to come to test as a single group is, and its leader stays where it would lie alone.
    """

    def __init__(self) -> None:
        self._above: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        return bool(self._above)

    def join(self, one: bytes, other: bytes) -> None:
        one, other = self.leader(one), self.leader(other)
        if one == other:
            return
        if one[8:] > other[8:]:
            one, other = other, one
        self._above[other] = one

    def leader(self, group: bytes) -> bytes:
        above = self._above
        top = group
        while (higher := above.get(top)) is not None:
            top = higher
        while group != top:  # the next one who asks has a shorter way
            above[group], group = top, above[group]
        return top


class _Conflicts:
    """Declarations that contradict each other: the first few, and how many there are."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def add(self, one: _Place, other: _Place) -> None:
        self._count += 1
        if len(self._shown) < _CONFLICTS_SHOWN:
            self._shown.append(f"{one[1]}:{one[2]} says {one[0]}, {other[1]}:{other[2]} says {other[0]}")

    def refuse(self, of: str) -> None:
        if not self._count:
            return
        shown = "; ".join(self._shown)
        if more := self._count - len(self._shown):
            shown += f"; and {more:,} more"
        raise DataError(
            f"{of} are declared for two splits: {shown}",
            "What is trained on can't be measured on: give them the same meta.split",
        )


def _share(fraction: float) -> bytes:
    """The first of the 8-byte draws that are beyond this share of all."""
    return int(fraction * 2**64).to_bytes(8, "big")


def group_key(row: Row) -> bytes:
    """The system message and first user turn, normalised: NFKC, casefold, white space collapsed."""
    first = row.messages[0]
    if first.role == "system":
        return _normalised(first.content) + b"\0" + _normalised(row.messages[1].content)
    return b"\0" + _normalised(first.content)


def declared_key(group: str) -> bytes:
    """The key of a declared group; with its second NUL it is no `group_key`, for no text holds a NUL."""
    return b"\0group\0" + group.encode()


def _normalised(text: str) -> bytes:
    if text.isascii():
        return " ".join(text.lower().split()).encode()
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).encode()
