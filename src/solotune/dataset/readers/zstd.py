"""A zstd file as a stream. Frames may follow each other; one that ends too early is an error.

zstandard's own stream reader takes a cut file for a whole one. A decompressor object tells, but gives all that
its input unpacks to at once: a kibibyte at a time can become 32 MiB, whatever the file holds.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAX_WINDOW_BYTES = 128 * 1024 * 1024
_FED_BYTES = 1024


class ZstdFile(io.RawIOBase):
    """The unpacked bytes of a .zst file.

    Raises, when it is read:
        OSError: the file is damaged or cut, or needs a larger window.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self._in_frame = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        while not self._ready:
            fed = self._file.read(_FED_BYTES)
            if not fed:
                if self._in_frame:
                    raise OSError("the file ends inside a zstd frame")
                return 0
            self._ready = memoryview(self._unpack(fed))
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self, fed: bytes) -> bytes:
        unpacked = b""
        try:
            while fed:
                unpacked += self._frame.decompress(fed)
                self._in_frame = not self._frame.eof
                fed = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = self._decompressor.decompressobj()
        except zstandard.ZstdError as error:
            raise OSError(f"not zstd, damaged, or with too large a window: {error}") from error
        return unpacked

    def close(self) -> None:
        self._file.close()
        super().close()
