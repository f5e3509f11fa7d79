"""Room on the disk, before it is needed and when it is gone."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from solotune.errors import ArtifactError, SolotuneError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_OF_DISKS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.E2BIG, errno.ENOEXEC, errno.ECHILD)


def refuse_without_room(folder: Path, needed: int, what: str, fix: str) -> None:
    """Raises ArtifactError where `folder`'s disk has less than `needed` bytes free.

    Args:
        folder: somewhere on the disk.
        needed: bytes.
        what: they are for, in words.
        fix: what to do.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ArtifactError(f"{folder} has {_gib(free)} free, and {what} take {_gib(needed)}", fix)


@contextmanager
def trouble_in_one_line(folder: Path, lost: str, then: Callable[[], str], needed: int = 0) -> Iterator[None]:
    """Turns what a full, read-only or vanished disk raises into one line.

    Args:
        folder: what is written.
        lost: what becomes of it, in words.
        then: what to do about a full disk; asked for when it is needed.
        needed: bytes about to be written; with less than that free, what a library raises in its own words (torch:
            "file write failed", safetensors: "I/O error") is a full disk.

    Raises:
        ArtifactError: instead of the OSError; one about another place, such as a cache, stays what it is.
    """
    try:
        yield
    except SolotuneError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and _is_elsewhere(error.filename, folder):
            raise
        told = "os error 28" in str(error) or "No space left" in str(error)  # by a library, in its own words
        if (isinstance(error, OSError) and error.errno in _FULL) or told or _is_full(folder, needed):
            raise ArtifactError(f"the disk is full: {folder} couldn't be written, and {lost}", then()) from error
        if not isinstance(error, OSError) or error.errno in _NOT_OF_DISKS:
            raise
        raise ArtifactError(
            f"can't write {error.filename or folder}: {error.strerror or error}",
            f"Check that {folder} is there, whose it is and who may write it; {lost}",
        ) from error


def _is_elsewhere(name: object, folder: Path) -> bool:
    """Whether an error names a file that is neither in the folder nor staged beside it."""
    if not isinstance(name, str | os.PathLike):
        return False
    return not Path(name).absolute().is_relative_to(folder.parent.absolute())


def _is_full(folder: Path, needed: int) -> bool:
    try:
        return shutil.disk_usage(folder).free < needed
    except OSError:
        return False


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
