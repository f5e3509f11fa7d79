"""Kept rows on their way to a side."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from struct import iter_unpack
from types import TracebackType
from typing import Self

from solotune.artifacts.files import atomic_write, fsync_folder
from solotune.config.schema import SPLITS, Split
from solotune.dataset.digests import DigestSet
from solotune.dataset.split import GROUP_BYTES

_BUFFER_BYTES = 1 << 20
_GROUP = f"{GROUP_BYTES}s"


@dataclass
class Sides:
    """What came to lie where."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Rows by split."""
    tags: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by tag and split."""
    groups: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """Groups by split."""


class WaitingRows:
    """Rows in files until every declaration is known: the row that decides for a group may be its last.

    A row waits on the side where it most likely stays. Where all rows do, their files are the splits; else they
    are written once more. In memory a row takes 21 bytes: its group, the number of its tags, and its side; and
    twenty more for each group while the rows are counted.
    """

    def __init__(self, folder: Path, guess: Callable[[bytes], Split] | None = None) -> None:
        """Opens the waiting files.

        Args:
            folder: where they are.
            guess: the side on which a group will likely be; None: all rows wait in one file, in order.
        """
        self._guess = guess
        self._paths = {split: folder / f"waiting-{split}" for split in SPLITS}
        self._files = {split: path.open("wb", buffering=_BUFFER_BYTES) for split, path in self._paths.items()}
        self._writers = [self._files[split].write for split in SPLITS]
        self._number = {split: i for i, split in enumerate(SPLITS)}
        self._guessed = bytearray()
        self._groups = bytearray()
        self._tags_of_row = array("I")
        self._tag_sets: dict[tuple[str, ...], int] = {(): 0}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._tags_of_row)

    @property
    def guesses(self) -> bool:
        """Whether rows wait on the side where they most likely stay."""
        return self._guess is not None

    @property
    def path(self) -> Path:
        """The file with all rows in order, where no side is guessed."""
        assert self._guess is None
        return self._paths[SPLITS[0]]

    def add(self, line: bytes, tags: tuple[str, ...], group: bytes) -> None:
        """Takes a row.

        Args:
            line: its canonical line.
            tags: of the row.
            group: that it is in.
        """
        side = self._number[self._guess(group)] if self._guess else 0
        self._writers[side](line + b"\n")
        self._guessed.append(side)
        self._groups += group
        self._tags_of_row.append(self._tag_sets.setdefault(tags, len(self._tag_sets)) if tags else 0)

    def close(self) -> None:
        """Ends the adding of rows; from now on the files hold them all."""
        with ExitStack() as stack:  # a disk that is full must not leave the others open
            for file in self._files.values():
                stack.callback(file.close)

    def group(self, row: int) -> bytes:
        """The group of a row, by number."""
        return bytes(self._groups[row * GROUP_BYTES : (row + 1) * GROUP_BYTES])

    def divide(
        self, side_of: Callable[[bytes], Split] | None, paths: dict[Split, Path], advance: Callable[[int], None]
    ) -> Sides:
        """Brings each row, in order, to the file of its side; no waiting file stays.

        Args:
            side_of: the side of a group; None: every row is where it was guessed to be.
            paths: the file of each side; flushed to the disk.
            advance: told how many rows were divided, now and then.
        """
        self.close()
        sides = self._guessed if side_of is None else self._sides(side_of)
        if self._guess and sides == self._guessed:
            for split, path in paths.items():
                _flush_and_rename(self._paths[split], path)
            advance(len(self))
        else:
            self._write_again(sides, paths, advance)
        return self._count(sides)

    def _sides(self, side_of: Callable[[bytes], Split]) -> bytearray:
        return bytearray(self._number[side_of(group)] for (group,) in iter_unpack(_GROUP, self._groups))

    def _write_again(self, sides: bytearray, paths: dict[Split, Path], advance: Callable[[int], None]) -> None:
        with ExitStack() as stack:
            waiting = [stack.enter_context(self._paths[s].open("rb", buffering=_BUFFER_BYTES)) for s in SPLITS]
            write = [stack.enter_context(atomic_write(paths[split])).write for split in SPLITS]
            for i, (waited, side) in enumerate(zip(self._guessed, sides, strict=True), 1):
                write[side](next(waiting[waited]))
                if i % 4096 == 0:
                    advance(4096)
            advance(len(self) % 4096)
        for path in self._paths.values():
            path.unlink()

    def _count(self, sides: bytearray) -> Sides:
        found = Sides({split: sides.count(i) for split, i in self._number.items()})
        tag_sets = list(self._tag_sets)
        for (side, number), count in Counter(zip(sides, self._tags_of_row, strict=True)).items():
            for tag in set(tag_sets[number]):
                found.tags.setdefault(tag, dict.fromkeys(SPLITS, 0))[SPLITS[side]] += count
        found.tags = dict(sorted(found.tags.items()))
        for split, i in self._number.items():
            of_rows = (group for (group,) in compress(iter_unpack(_GROUP, self._groups), map(i.__eq__, sides)))
            found.groups[split] = DigestSet().add_all(of_rows)
        return found


def _flush_and_rename(path: Path, target: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    path.replace(target)
    fsync_folder(target.parent)
