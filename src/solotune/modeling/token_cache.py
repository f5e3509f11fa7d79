"""Rows as token ids on disk, named by what they were made of: no stage tokenises the same rows twice.

A file is a safetensors file with four tensors: the ids of all rows one behind the other, where they are trained, and
where each row ends. It is mapped into memory, not read, and proven by its own sha256 each time it is opened.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from solotune.artifacts.files import atomic_write, sha256_file, sha256_text
from solotune.console import warn
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.template import MessageLike
from solotune.modeling.tokenised import TokenisedRows

LIMIT_BYTES = 5_000_000_000
"""Of all files together; beyond it those that were not used for longest go."""
_FORMAT = "1"
_HEADER_BYTES = 1024
_ROWS_AT_ONCE = 4096
_PROVEN_ROWS = 64
_LEFT_BEHIND_SECONDS = 24 * 3600
_TENSORS: dict[str, tuple[str, type[Any]]] = {
    "ids": ("I32", np.int32),
    "spans": ("I32", np.int32),
    "row_ends": ("I64", np.int64),
    "span_ends": ("I64", np.int64),
}

Chat = Sequence[MessageLike]


def tokenised(
    split: Path,
    chats: Callable[[], Iterable[Chat]],
    encoder: ChatEncoder,
    on_rows: Callable[[int], None] = lambda _: None,
) -> TokenisedRows:
    """The rows of a split file as tokens, whole, in order: from the cache, or made and put there.

    Args:
        split: the file; its contents are part of the name.
        chats: gives its rows; called only if they aren't in the cache.
        encoder: tokenizer and template.
        on_rows: told how many rows were encoded, now and then; never called when they were in the cache.

    Raises:
        ModelError: the template can't be masked exactly, or this tokenizer's ids wouldn't be the model's.
    """
    key = sha256_text(json.dumps([_FORMAT, sha256_file(split), encoder.fingerprint, sha256_file(Path(__file__))]))
    path = cache_root() / "tokens" / f"{key}.safetensors"
    found = _open(path, key)
    if found is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            _write(file, chats(), encoder, key, on_rows)
        prune(path.parent, keep=path)
    except OSError as error:
        warn(
            f"the tokens of {split} can't be kept for the next run in {path.parent} ({error.strerror}): free some "
            "space, or set SOLOTUNE_CACHE to a folder that can be written"
        )
        return _in_a_temporary_file(chats(), encoder, key, on_rows)
    # What can't be read back as it was written is a disk's fault: nothing depends on it.
    found = _open(path, key)
    return _in_a_temporary_file(chats(), encoder, key, on_rows) if found is None else found


def cache_root() -> Path:
    """$SOLOTUNE_CACHE, else solotune/ in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("SOLOTUNE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "solotune"


def prune(folder: Path, keep: Path, limit: int = LIMIT_BYTES) -> None:
    """Deletes the files that weren't used for longest until all fit into `limit`, and what killed processes left."""
    files = []
    for path in folder.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another process prunes too
        if path.name.startswith(".") and time.time() - status.st_mtime > _LEFT_BEHIND_SECONDS:
            path.unlink(missing_ok=True)
        elif path.suffix == keep.suffix and path != keep:
            files.append((status.st_mtime, status.st_size, path))
    total = keep.stat().st_size + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _write(
    file: IO[bytes], chats: Iterable[Chat], encoder: ChatEncoder, key: str, on_rows: Callable[[int], None]
) -> None:
    """Ids go to the disk as they come; the header, which needs their number, is written over its place last."""
    file.write(bytes(_HEADER_BYTES))
    hashed = hashlib.sha256()
    counts = dict.fromkeys(_TENSORS, 0)

    def append(name: str, values: array[int]) -> None:
        counts[name] += len(values)
        hashed.update(values)
        file.write(values)

    spans, row_ends, span_ends = array("i"), array("q"), array("q")
    tokens = 0
    for number, some in enumerate(_in_lists(chats)):
        if number == 0:
            encoder.check_against_template(some[:_PROVEN_ROWS])
        encoded = encoder.encode_batch(some)
        for row in encoded:
            tokens += len(row.ids)
            row_ends.append(tokens)
            spans.extend(chain.from_iterable(row.spans))
            span_ends.append(len(spans) // 2)
        append("ids", array("i", chain.from_iterable(row.ids for row in encoded)))
        on_rows(len(some))
    append("spans", spans)
    append("row_ends", row_ends)
    append("span_ends", span_ends)
    header: dict[str, Any] = {"__metadata__": {"key": key, "sha256": hashed.hexdigest()}}
    start = 0
    for name, (kind, dtype) in _TENSORS.items():
        end = start + counts[name] * np.dtype(dtype).itemsize
        header[name] = {"dtype": kind, "shape": [counts[name]], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    file.seek(0)
    file.write((_HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(_HEADER_BYTES - 8))


def _in_lists(chats: Iterable[Chat]) -> Iterator[list[Chat]]:
    rest = iter(chats)
    while some := list(islice(rest, _ROWS_AT_ONCE)):
        yield some


def _open(path: Path, key: str) -> TokenisedRows | None:
    """The rows in a file; None where there is none, or one that isn't what it says."""
    try:
        with path.open("rb") as file:
            rows = _map(file, key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        warn(f"{path} is damaged ({error}); the rows are tokenised again")
        return None
    with suppress(OSError):  # a cache that may only be read
        os.utime(path)  # used just now: see `prune`
    return rows


def _map(file: IO[bytes], key: str) -> TokenisedRows:
    """Raises ValueError, KeyError or TypeError for bytes that aren't what `_write` wrote under this key."""
    data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if int.from_bytes(data[:8], "little") != _HEADER_BYTES - 8:
        raise ValueError("it has another header")
    header = json.loads(bytes(data[8:_HEADER_BYTES]))
    facts = header["__metadata__"]
    if facts["key"] != key:
        raise ValueError("it holds other rows")
    payload = data[_HEADER_BYTES:]
    if hashlib.sha256(payload).hexdigest() != facts["sha256"]:
        raise ValueError("its contents changed")
    tensors = {}
    for name, (_, dtype) in _TENSORS.items():
        start, end = header[name]["data_offsets"]
        tensors[name] = np.frombuffer(payload[start:end], dtype=dtype)
    # Small beside the ids, and read all the time: copied, so that they lie aligned in memory.
    row_ends, span_ends = tensors["row_ends"].copy(), tensors["span_ends"].copy()
    return TokenisedRows(tensors["ids"], tensors["spans"].reshape(-1, 2).copy(), row_ends, span_ends)


def _in_a_temporary_file(
    chats: Iterable[Chat], encoder: ChatEncoder, key: str, on_rows: Callable[[int], None]
) -> TokenisedRows:
    with tempfile.TemporaryFile() as file:  # mapped, it lives on without a name
        _write(file, chats, encoder, key, on_rows)
        file.flush()
        return _map(file, key)
