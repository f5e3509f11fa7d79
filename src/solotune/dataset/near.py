"""Near-duplicates: rows that say almost the same, in almost the same words.

`across` finds those that are on two sides; `within` finds them all, so that they can be put on one side. Signatures
propose (estimated Jaccard: the threshold less 0.2), the verdict is exact. Where a great many rows resemble each other
without being near-duplicates, a row isn't compared with all of them: see the limits.

In memory: `across` takes 200 bytes for each row of val and test and none for a row of train, `within` 110 for each row.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import msgspec
import numpy as np

from solotune.artifacts.splits_dir import NearPair
from solotune.config.schema import Split
from solotune.dataset.contract import Message
from solotune.dataset.shingles import folded, jaccard, shingles
from solotune.dataset.signatures import BANDS, MAX_BATCH_BYTES, PERMUTATIONS, Array, bands, estimate, signatures

SHOWN = 20
_MARGIN = 0.2  # four standard deviations of the estimate
_ROWS_AT_ONCE = 1024
_OF_A_BUCKET = 64
"""`across` looks at so many rows of a bucket that it isn't done with."""
_VERDICTS = 64
"""`across` is done with a row after its first near-duplicate, or so many verdicts."""
_NEIGHBOURS = 16
"""`within` compares a row with so many before and behind it in a bucket."""


class Across(NamedTuple):
    """What `across` found."""

    rows: dict[str, int]
    """Rows of val and of test that have a near-duplicate on another side."""
    pairs: list[NearPair]
    """The first SHOWN such rows, each with one near-duplicate."""


def across(paths: Mapping[Split, Path], threshold: float, advance: Callable[[int], None] = lambda _: None) -> Across:
    """Looks on the other sides for what is nearly the same as a row of val or test.

    Args:
        paths: the file of each side.
        threshold: the Jaccard from which two rows are near-duplicates.
        advance: told how many rows were read, now and then.
    """
    found = Across({"val": 0, "test": 0}, [])
    with _Texts([paths["test"], paths["val"]]) as texts:
        held = _HeldOut(texts, threshold, advance)
        if not texts:
            return found
        of_test = texts.firsts[1]
        searched: tuple[tuple[Split, range], ...] = (
            ("test", range(of_test, len(texts))),
            ("val", range(of_test)),
            ("train", range(len(texts))),
        )
        for side, among in searched:
            for batch in _batches(paths[side]):
                for i, row, similarity in held.like(batch, among):
                    split: Split = "test" if row < of_test else "val"
                    found.rows[split] += 1
                    if len(found.pairs) < SHOWN:
                        found.pairs.append(NearPair(texts.id(row), split, batch.ids[i], side, round(similarity, 4)))
                if side == "train":  # the others were told of when they were put into the buckets
                    advance(len(batch.ids))
    return found


def within(
    path: Path,
    threshold: float,
    is_joined: Callable[[int, int], bool],
    join: Callable[[int, int], None],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Calls `join` for near-duplicates among the rows of a file, until all of them hang together.

    What hangs together in the end doesn't depend on the order of the rows.

    Args:
        path: the rows.
        threshold: the Jaccard from which two rows are near-duplicates.
        is_joined: whether two rows, by number, hang together already; they aren't compared again.
        join: takes the numbers of two near-duplicates.
        advance: told how many rows were read, now and then.
    """
    found, order = bytearray(), array("Q")
    with _Texts([path]) as texts:
        for batch in texts.read():
            signature, has_words = signatures(batch.texts)
            found += signature.tobytes()
            order.extend(_rank(row_id) if some else 0 for row_id, some in zip(batch.ids, has_words, strict=True))
            advance(len(batch.ids))
        if not found:
            return
        signature = np.frombuffer(found, np.uint8).reshape(-1, PERMUTATIONS)
        rank = np.frombuffer(order, np.uint64)
        for band in range(BANDS):
            for some, others in _neighbours(bands(signature)[:, band], rank):
                near = estimate(signature[some], signature[others]) >= threshold - _MARGIN
                for one, other in zip(some[near].tolist(), others[near].tolist(), strict=True):
                    if is_joined(one, other):
                        continue
                    if jaccard(texts.shingles(one), texts.shingles(other)) >= threshold:
                        join(one, other)


def _rank(row_id: str) -> int:
    """A row's place in the order in which a bucket is gone through, wherever it stands in the file; never 0."""
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big") | 1


def _neighbours(band: Array, rank: Array) -> Iterator[tuple[Array, Array]]:
    """Pairs of rows of one bucket, at most _NEIGHBOURS apart in it by rank; rows of rank 0 are in none."""
    order = np.lexsort((rank, band)).astype(np.uint32)
    order = order[rank[order] > 0]
    band = band[order]
    for distance in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        at = np.flatnonzero(band[:-distance] == band[distance:])
        for start in range(0, len(at), 1 << 16):
            some = at[start : start + (1 << 16)]
            yield order[some], order[some + distance]


class _HeldOut:
    """The rows of val and test in buckets: in each of BANDS ways, sorted by a part of their signatures."""

    def __init__(self, texts: _Texts, threshold: float, advance: Callable[[int], None]) -> None:
        found, counts = bytearray(), []
        for batch in texts.read():
            signature, has_words = signatures(batch.texts)
            found += signature.tobytes()
            counts.append(has_words)
            advance(len(batch.ids))
        self._texts, self._threshold = texts, threshold
        self._signatures = np.frombuffer(found, np.uint8).reshape(-1, PERMUTATIONS)
        self._is_open = np.concatenate(counts) if counts else np.zeros(0, bool)
        self._verdicts = np.zeros(len(texts), np.uint8)
        self._fill_buckets()

    def like(self, batch: _Batch, among: range) -> Iterator[tuple[int, int, float]]:
        """Yields (row of the batch, row held out, Jaccard) for rows with these numbers, each row held out once."""
        if self._closed > 1024 + self._filled // 16:
            self._fill_buckets()
        signature, has_words = signatures(batch.texts)
        for i, parts in sorted(self._candidates(bands(signature)).items()):
            rows = np.unique(np.concatenate([part[self._is_open[part]][:_OF_A_BUCKET] for part in parts]))
            rows = rows[(rows >= among.start) & (rows < among.stop) & has_words[i]]
            rows = rows[estimate(self._signatures[rows], signature[i]) >= self._threshold - _MARGIN]
            said = shingles(batch.texts[i]) if len(rows) else frozenset()
            for row in rows.tolist():
                similarity = jaccard(said, self._texts.shingles(row))
                self._verdicts[row] += 1
                if similarity >= self._threshold or self._verdicts[row] == _VERDICTS:
                    self._is_open[row] = False
                    self._closed += 1
                if similarity >= self._threshold:
                    yield i, row, similarity

    def _fill_buckets(self) -> None:
        rows = np.flatnonzero(self._is_open).astype(np.uint32)
        self._filled, self._closed = len(rows), 0
        self._keys, self._rows = [], []
        for band in range(BANDS):
            key = bands(self._signatures)[rows, band]
            order = np.argsort(key, kind="stable")
            self._keys.append(key[order])
            self._rows.append(rows[order])

    def _candidates(self, wanted: Array) -> dict[int, list[Array]]:
        found: dict[int, list[Array]] = {}
        if not self._filled:
            return found
        for band, (keys, rows) in enumerate(zip(self._keys, self._rows, strict=True)):
            key = wanted[:, band]
            begins = np.searchsorted(keys, key)
            hits = np.flatnonzero(keys[np.minimum(begins, len(keys) - 1)] == key)
            # More than `like` closes before the buckets are filled anew: an open row behind closed ones is reached.
            ends = np.minimum(np.searchsorted(keys, key[hits], side="right"), begins[hits] + 4096 + self._filled // 8)
            for i, begin, end in zip(hits.tolist(), begins[hits].tolist(), ends.tolist(), strict=True):
                found.setdefault(i, []).append(rows[begin:end])
        return found


class _Said(msgspec.Struct, frozen=True, gc=False):
    id: str
    messages: tuple[Message, ...]


class _Batch(NamedTuple):
    ids: list[str]
    texts: list[bytes]
    offsets: list[int]


_decode = msgspec.json.Decoder(_Said).decode


def _batches(path: Path) -> Iterator[_Batch]:
    batch, size, offset = _Batch([], [], []), 0, 0
    with path.open("rb", buffering=1 << 20) as lines:
        for line in lines:
            said = _decode(line)
            text = folded(said.messages)
            if len(batch.ids) == _ROWS_AT_ONCE or size + len(text) > MAX_BATCH_BYTES:
                yield batch
                batch, size = _Batch([], [], []), 0
            batch.ids.append(said.id)
            batch.texts.append(text)
            batch.offsets.append(offset)
            size += len(text)
            offset += len(line)
    if batch.ids:
        yield batch


class _Texts:
    """Rows of several files, numbered through; read again where a pair has to be judged."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._offsets = array("Q")
        self._known: dict[int, frozenset[bytes]] = {}
        self.firsts = [0] * len(paths)
        """The number of each file's first row, once they have been read."""

    def __enter__(self) -> Self:
        self._files: list[BinaryIO] = [path.open("rb") for path in self._paths]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self) -> Iterator[_Batch]:
        for i, path in enumerate(self._paths):
            self.firsts[i] = len(self)
            for batch in _batches(path):
                self._offsets.extend(batch.offsets)
                yield batch

    def id(self, row: int) -> str:
        return self._said(row).id

    def shingles(self, row: int) -> frozenset[bytes]:
        if row not in self._known:
            if len(self._known) == _ROWS_AT_ONCE:
                self._known.clear()
            self._known[row] = shingles(folded(self._said(row).messages))
        return self._known[row]

    def _said(self, row: int) -> _Said:
        file = self._files[bisect_right(self.firsts, row) - 1]
        file.seek(self._offsets[row])
        return _decode(file.readline())
