"""Kept rows on their way to a side."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from solotune.artifacts.files import atomic_write
from solotune.config.schema import SPLITS, Split
from solotune.dataset import contract
from solotune.dataset.contract import Row
from solotune.dataset.split import GROUP_BYTES


@dataclass
class Sides:
    """What came to lie where."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Rows by split."""
    tags: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by tag and split."""


class WaitingRows:
    """Rows in a file until every declaration is known: the row that decides for a group may be its last.

    In memory a row takes twenty bytes: its group and the number of its tags.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=1 << 20)
        self._groups = bytearray()
        self._tags_of_row = array("I")
        self._tag_sets: dict[tuple[str, ...], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._tags_of_row)

    def add(self, row: Row, group: bytes) -> None:
        self._file.write(contract.encode(row) + b"\n")
        self._groups += group
        self._tags_of_row.append(self._tag_sets.setdefault(row.meta.tags, len(self._tag_sets)))

    def divide(
        self, side_of: Callable[[bytes], Split], paths: dict[Split, Path], advance: Callable[[int], None]
    ) -> Sides:
        """Writes each row, in order, to the file of its side, and deletes the waiting file.

        Args:
            side_of: the side of a group.
            paths: the file of each side; flushed to the disk.
            advance: told how many rows were written, now and then.
        """
        self._file.close()
        counted = {split: [0] * len(self._tag_sets) for split in SPLITS}
        with ExitStack() as stack:
            lines = stack.enter_context(self._path.open("rb", buffering=1 << 20))
            files = {split: stack.enter_context(atomic_write(path)) for split, path in paths.items()}
            for i, (line, tags) in enumerate(zip(lines, self._tags_of_row, strict=True), 1):
                side = side_of(bytes(self._groups[(i - 1) * GROUP_BYTES : i * GROUP_BYTES]))
                files[side].write(line)
                counted[side][tags] += 1
                if i % 4096 == 0:
                    advance(4096)
            advance(len(self) % 4096)
        self._path.unlink()
        return self._sides(counted)

    def _sides(self, counted: dict[Split, list[int]]) -> Sides:
        sides = Sides({split: sum(counts) for split, counts in counted.items()})
        for tags, i in self._tag_sets.items():
            for tag in set(tags):
                by_split = sides.tags.setdefault(tag, dict.fromkeys(SPLITS, 0))
                for split in SPLITS:
                    by_split[split] += counted[split][i]
        sides.tags = dict(sorted(sides.tags.items()))
        return sides
