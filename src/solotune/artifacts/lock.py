"""One writer at a time in a folder, and no reader beside it."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from solotune.errors import ArtifactError

NAME = ".lock"


class Holder(msgspec.Struct, frozen=True):
    """Who holds a folder: what the lock file says while it is locked."""

    doing: str
    pid: int
    host: str
    """In a container its id."""
    since: str


@contextmanager
def held(folder: Path, doing: str, *, shared: bool = False, wait: float = 0.0) -> Iterator[None]:
    """Holds a folder until the block ends. The kernel lets go of it when the process dies, whatever it dies of.

    Args:
        folder: one that isn't there isn't held.
        doing: what for, as a command; whoever comes second is told.
        shared: for reading. Others may read at the same time, and nobody writes.
        wait: seconds, for a folder that is held for moments only.

    Raises:
        ArtifactError: another process holds it.
    """
    end = time.monotonic() + wait
    while True:
        try:
            descriptor = _locked(folder, doing, shared)
            break
        except ArtifactError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        if descriptor is not None:
            _let_go(folder / NAME, descriptor)


def holder(folder: Path) -> Holder | None:
    """Who holds a folder alone, to write in it; None where nobody does, or where that can't be seen."""
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # gone again with the descriptor
    except BlockingIOError:
        return _named(folder / NAME)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def refuse_others(folder: Path) -> None:
    """Raises ArtifactError where another process writes in a folder."""
    found = holder(folder)
    if found and (found.host, found.pid) != (socket.gethostname(), os.getpid()):
        raise _refusal(folder, found)


def _locked(folder: Path, doing: str, shared: bool) -> int | None:
    """The descriptor of the locked file; None where the file system has no locks, or can't be written."""
    path = folder / NAME
    while True:
        descriptor = _opened(path)
        if descriptor is None:
            return None
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _refusal(folder, _named(path)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                return None
            raise
        # The file may have been deleted by its last holder between the two calls: then this lock is on nothing.
        if _is_same(descriptor, path):
            holder = Holder(doing, os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
            if os.access(path, os.W_OK) and not (shared and _is_alive(_named(path))):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, msgspec.json.encode(holder), 0)
            return descriptor
        os.close(descriptor)


def _opened(path: Path) -> int | None:
    """The lock file; another user's, which can only be read, can be locked all the same."""
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM):
                raise
    return None  # there is nothing to hold, or whoever writes will be told why that fails


def _let_go(path: Path, descriptor: int) -> None:
    try:
        # Only the last one may delete it; for a reader among others this fails.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(descriptor, path):
            path.unlink()
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _named(path: Path) -> Holder | None:
    """Who wrote its name into the lock file; None before somebody has."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None


def _is_alive(holder: Holder | None) -> bool:
    """Whether that process runs; of one on another host, or in another container, that can't be seen: it does."""
    if holder is None:
        return False
    return holder.host != socket.gethostname() or Path(f"/proc/{holder.pid}").exists()


def _refusal(folder: Path, holder: Holder | None) -> ArtifactError:
    # Of several readers one has its name there, and may have gone before the others.
    if holder is None or not _is_alive(holder):
        return ArtifactError(f"another process works in {folder}", "Wait until it has finished, or stop it")
    return ArtifactError(
        f"`{holder.doing}` works in {folder} (process {holder.pid} on {holder.host}, since {holder.since})",
        "Wait until it has finished, or stop it",
    )
