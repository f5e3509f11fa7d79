"""Clusters: groups that lie on one side because a row of one is nearly a row of the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from solotune.artifacts.files import atomic_write
from solotune.dataset.divide import WaitingRows
from solotune.dataset.split import Splitter


class Clusters:
    """Joins the groups of waiting rows. Which ones depends on what the rows say, not on their order."""

    def __init__(self, splitter: Splitter, waiting: WaitingRows) -> None:
        self.splitter, self.waiting = splitter, waiting
        self.count = 0
        self.rows = 0
        self._joined: set[bytes] = set()

    def join_near(self, threshold: float, advance: Callable[[int], None]) -> None:
        """Joins the groups of all near-duplicates."""
        # numpy and rensa take a quarter of a second to import; only those who ask for clusters pay for it.
        from solotune.dataset import near

        self.waiting.close()
        near.within(self.waiting.path, threshold, self._are_together, self._join, advance)

    def write(self, path: Path) -> None:
        """Writes a line for each row that is in a cluster, in the order of the rows: its id and its cluster."""
        encode = msgspec.json.Encoder().encode
        decode = msgspec.json.Decoder(_Id).decode
        leaders = {self.splitter.leader(group) for group in self._joined}
        self.count = len(leaders)
        with atomic_write(path) as out:
            if not leaders:
                return
            with self.waiting.path.open("rb", buffering=1 << 20) as lines:
                for number, line in enumerate(lines):
                    leader = self.splitter.leader(self.waiting.group(number))
                    if leader in leaders:
                        out.write(encode(Member(decode(line).id, leader.hex())) + b"\n")
                        self.rows += 1

    def _are_together(self, one: int, other: int) -> bool:
        leader = self.splitter.leader
        return leader(self.waiting.group(one)) == leader(self.waiting.group(other))

    def _join(self, one: int, other: int) -> None:
        groups = self.waiting.group(one), self.waiting.group(other)
        self.splitter.join(*groups)
        self._joined.update(groups)


class Member(msgspec.Struct, frozen=True):
    """A line of clusters.jsonl."""

    id: str
    cluster: str


class _Id(msgspec.Struct, frozen=True):
    id: str
