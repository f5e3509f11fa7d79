"""Files that are either whole or not there: atomic writes, hashes, JSON.

Every write goes to a temporary file beside the target, is flushed to the disk (fsync), and takes the target's
name in one step (rename); then the folder is flushed too, so that the name survives a power cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from solotune.console import Progress
from solotune.errors import ArtifactError

Record = TypeVar("Record", bound=msgspec.Struct)

_STAGED = ".staged-"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that appears at `path` when the block ends well, and not at all when it doesn't."""
    with _named_when_done(path) as staged, staged.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` for a program to write to; what it wrote is flushed and takes the name `path`."""
    with _named_when_done(path) as staged:
        yield staged
        fsync_file(staged)


@contextmanager
def _named_when_done(path: Path) -> Iterator[Path]:
    staged = staged_name(path)
    try:
        yield staged
        staged.replace(path)
        fsync_folder(path.parent)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def staged_pair(data: Path, lines: Iterable[bytes], record: Path, text: str) -> Iterator[Callable[[], None]]:
    """Writes a file and the record of what is in it beside their names, flushed; what it yields gives them these.

    Until that is called, what stood there stands, and where it fails, that comes back. Two files can't take their names
    in one step: between them there is no record, so that none ever stands beside data that isn't its own.
    """
    staged = {path: staged_name(path) for path in (data, record)}

    def take_names() -> None:
        aside: dict[Path, Path] = {}
        given: list[Path] = []
        try:
            for path in (record, data):
                if path.exists():
                    aside[path] = path.rename(staged_name(path))
            for path, waiting in staged.items():
                waiting.replace(path)
                given.append(path)
            fsync_folder(record.parent)
        except OSError:
            with suppress(OSError):  # what went wrong first is told
                for path in reversed(given):
                    path.unlink()
                for path, earlier in reversed(aside.items()):
                    earlier.replace(path)
                fsync_folder(record.parent)
            raise
        for earlier in aside.values():
            with suppress(OSError):  # `remove_staged` finds it
                earlier.unlink()

    try:
        for waiting, content in zip(staged.values(), (lines, [text.encode()]), strict=True):
            with waiting.open("wb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
        yield take_names
    finally:
        for waiting in staged.values():
            waiting.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the name `path` when the block ends well; its files are flushed first.

    Raises:
        ArtifactError: `path` exists already.
    """
    if path.exists():
        raise ArtifactError(f"{path} exists already", "Nothing is overwritten: delete it or choose another name")
    make_folder(path.parent)
    staged = staged_name(path)
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        yield staged
        for file in sorted(staged.rglob("*")):
            if file.is_file():
                file.chmod(0o666 & ~_umask())  # safetensors' own are for their owner alone
                fsync_file(file)
            elif file.is_dir():
                fsync_folder(file)
        fsync_folder(staged)
        staged.rename(path)
        fsync_folder(path.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that aren't there; their names survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def staged_name(path: Path) -> Path:
    """Beside `path`: where its contents wait. `remove_staged` finds what a killed process leaves there."""
    # Processes in two containers may have the same number.
    return path.with_name(f"{_STAGED}{path.name}.{os.getpid()}-{secrets.token_hex(2)}")


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, for what moves on from there; gone when the block ends, anyhow."""
    staged = staged_name(path)
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def discard(folder: Path) -> None:
    """Deletes a folder that may not be there. It loses its name first: no half of it is ever taken for whole."""
    going = staged_name(folder.with_name(f"{folder.name}.discarded"))
    shutil.rmtree(going, ignore_errors=True)
    try:
        folder.rename(going)
    except FileNotFoundError:
        return
    shutil.rmtree(going, ignore_errors=True)


def remove_staged(folder: Path) -> None:
    """Deletes what an earlier process, killed while it wrote, left in `folder`."""
    for left in folder.glob(f"{_STAGED}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes a struct or plain value as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """A struct or plain value as indented JSON."""
    return json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: Path, values: Iterable[Any]) -> int:
    """Writes one compact JSON document a line, atomically; returns the number of lines."""
    encoder = msgspec.json.Encoder()
    count = 0
    with atomic_write(path) as file:
        for value in values:
            file.write(encoder.encode(value) + b"\n")
            count += 1
    return count


def read_record(path: Path, kind: type[Record], made_by: str) -> Record:
    """Reads a manifest.

    Args:
        path: the JSON file.
        kind: the struct that it must fit.
        made_by: the command that writes it, for the message.

    Raises:
        ArtifactError: the file is missing, damaged, or of another schema version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        where = f"{path.parent} is unfinished: {path.name} is missing" if path.parent.is_dir() else f"no {path.parent}"
        raise ArtifactError(where, f"Run `{made_by}`") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is damaged or of another version: {error}", f"Delete it and run `{made_by}`"
        ) from error


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class FileRecord(msgspec.Struct, frozen=True):
    """What is remembered of a file: its size in bytes and its sha256."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        return cls(path.stat().st_size, sha256_file(path))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """A record of every file below `folder`, by its path relative to it, in order."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    with Progress(f"hashing {folder.name.removeprefix(_STAGED)}", len(files), "files") as bar:
        records = {}
        for file in files:
            records[file.relative_to(folder).as_posix()] = FileRecord.of(file)
            bar.advance()
    return records


def differing_files(folder: Path, files: dict[str, FileRecord], *, hashes: bool) -> list[str]:
    """Names of recorded files that are missing or differ from their record, with how.

    Args:
        hashes: compare contents; otherwise sizes only, which finds a missing or cut file at once.
    """
    found = []
    for name, record in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != record.bytes:
            found.append(f"{name} has {path.stat().st_size:,} bytes instead of {record.bytes:,}")
        elif hashes and sha256_file(path) != record.sha256:
            found.append(f"{name} was changed")
    return found


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
