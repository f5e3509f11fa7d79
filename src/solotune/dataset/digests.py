"""What was seen, for millions of rows: twenty bytes each, where a Python set takes a hundred and more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice

DIGEST_BYTES = 16
_MOST_RECENT = 1 << 18


def digest_of(data: bytes | str) -> bytes:
    """The first half of sha256."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).digest()[:DIGEST_BYTES]


class DigestSet:
    """Digests, or texts by theirs: the last ones in a Python set, which is fast, the others packed, which is small.

    Packed are 16 bytes of each, side by side in buckets; a bucket is searched as one string of bytes. A hit
    across two neighbours is as likely as two rows with one digest: it takes 128 bits that agree by chance.
    """

    def __init__(self) -> None:
        self._recent: set[str | bytes] = set()
        self._packed: list[bytearray] = []

    def __contains__(self, key: str | bytes) -> bool:
        return key in self._recent or (bool(self._packed) and self._is_packed(key))

    def add(self, key: str | bytes) -> bool:
        """Whether the key is a new one; from now on it isn't."""
        recent = self._recent
        if key in recent or (self._packed and self._is_packed(key)):
            return False
        if len(recent) >= _MOST_RECENT:
            self._pack()
        recent.add(key)
        return True

    def add_all(self, keys: Iterable[str | bytes]) -> int:
        """How many of the keys are new ones."""
        new, keys = 0, iter(keys)
        while batch := list(islice(keys, _MOST_RECENT)):
            if self._packed or len(self._recent) + len(batch) > _MOST_RECENT:
                new += sum(map(self.add, batch))
            else:
                before = len(self._recent)
                self._recent.update(batch)
                new += len(self._recent) - before
        return new

    def take_back(self, key: str | bytes) -> None:
        """Undoes the last `add`."""
        self._recent.remove(key)

    def _is_packed(self, key: str | bytes) -> bool:
        digest = _packed_form(key)
        return digest in self._packed[int.from_bytes(digest[:2], "big")]

    def _pack(self) -> None:
        if not self._packed:
            self._packed = [bytearray() for _ in range(1 << 16)]
        for key in self._recent:
            digest = _packed_form(key)
            self._packed[int.from_bytes(digest[:2], "big")] += digest
        self._recent.clear()


def _packed_form(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else digest_of(key)
