"""Files are whole or not there."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from solotune.artifacts import files
from solotune.artifacts.files import (
    FileRecord,
    atomic_folder,
    atomic_write,
    differing_files,
    read_record,
    record_files,
    remove_staged,
    sha256_file,
    sha256_text,
    staged_pair,
    write_json,
    write_jsonl,
    write_text,
)
from solotune.errors import ArtifactError

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


class Note(msgspec.Struct):
    schema_version: int
    text: str


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_of_a_pair_none_has_its_name_before_both_are_flushed(tmp_path: Path) -> None:
    data, record = tmp_path / "data", tmp_path / "record"
    data.write_bytes(b"old")
    record.write_bytes(b"of the old")
    with staged_pair(data, [b"ne", b"w"], record, "of the new") as take_names:
        assert [path.read_bytes() for path in sorted(tmp_path.glob(".staged-*"))] == [b"new", b"of the new"]
        assert (data.read_bytes(), record.read_bytes()) == (b"old", b"of the old")
        take_names()
        assert (data.read_bytes(), record.read_bytes()) == (b"new", b"of the new")
    with staged_pair(data, [b"newer"], record, "of the newer"):
        pass
    assert (data.read_bytes(), record.read_bytes()) == (b"new", b"of the new")
    assert names(tmp_path) == ["data", "record"]


@pytest.mark.parametrize("failing", range(5))
def test_a_pair_that_cannot_take_its_names_gives_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    data, record = tmp_path / "data", tmp_path / "record"
    data.write_bytes(b"old")
    record.write_bytes(b"of the old")
    calls = 0

    def sometimes(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OSError(5, "Input/output error")
            return real(*arguments)

        return call

    with staged_pair(data, [b"new"], record, "of the new") as take_names:
        for name in ("rename", "replace", "fsync"):
            monkeypatch.setattr(os, name, sometimes(getattr(os, name)))
        with pytest.raises(OSError, match="Input/output"):
            take_names()
    assert (data.read_bytes(), record.read_bytes()) == (b"old", b"of the old")
    assert names(tmp_path) == ["data", "record"]


def test_a_pair_over_half_of_one_that_cannot_take_its_names_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, record = tmp_path / "data", tmp_path / "record"
    data.write_bytes(b"left by a kill")
    real = os.fsync

    def failing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with (
        pytest.raises(OSError, match="Input/output"),
        staged_pair(data, [b"new"], record, "of the new") as take_names,
    ):
        take_names()
    assert data.read_bytes() == b"left by a kill", "as it was"
    assert names(tmp_path) == ["data"], "and no record beside it"


def test_a_file_is_flushed_before_it_takes_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        kind = "folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file"
        done.append(f"fsync {kind}")
        fsync(descriptor)

    def note_replace(*paths: Path) -> None:
        done.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_text(tmp_path / "a", "x")
    assert done == ["fsync file", "rename", "fsync folder"]


def test_a_failed_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_whole_with_its_sub_folders(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "run") as staged:
        (staged / "sub").mkdir()
        (staged / "sub" / "a").write_bytes(b"x")
        assert not (tmp_path / "deep" / "run").exists()
    assert (tmp_path / "deep" / "run" / "sub" / "a").read_bytes() == b"x"
    assert names(tmp_path / "deep") == ["run"]


def test_a_folder_whose_block_fails_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path / "run") as staged:  # noqa: PT012
        (staged / "a").write_bytes(b"x")
        raise ValueError("stop")
    assert names(tmp_path) == []


def test_a_folder_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ArtifactError, match="exists already"), atomic_folder(tmp_path / "run"):
        pytest.fail("the block must not be entered")


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".staged-run.1").mkdir()
    (tmp_path / ".staged-run.1" / "a").write_bytes(b"x")
    (tmp_path / ".staged-a.2").write_bytes(b"x")
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / ".other").write_bytes(b"x")
    remove_staged(tmp_path)
    assert names(tmp_path) == [".other", "a"]


def test_json_is_readable_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", Note(1, "Größe"))
    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text) == {"schema_version": 1, "text": "Größe"}
    assert "Größe" in text
    assert text.endswith("}\n")


def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


def test_jsonl_is_a_document_a_line(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "a", iter([{"a": 1}, Note(1, "x\ny")])) == 2
    assert (tmp_path / "a").read_bytes() == b'{"a":1}\n{"schema_version":1,"text":"x\\ny"}\n'


def test_a_record_is_read_into_its_struct(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", Note(1, "x"))
    assert read_record(tmp_path / "a.json", Note, "make it") == Note(1, "x")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema_version": "1", "text": "x"}', b"\xff"])
def test_a_damaged_record_says_which_command_makes_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.json is damaged .*Delete it and run `make it`"):
        read_record(tmp_path / "a.json", Note, "make it")


def test_a_missing_record_tells_an_unfinished_folder_from_none(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is unfinished: a\.json is missing\. Run `make it`"):
        read_record(tmp_path / "a.json", Note, "make it")
    with pytest.raises(ArtifactError, match=r"no .*/none\. Run `make it`"):
        read_record(tmp_path / "none" / "a.json", Note, "make it")


def test_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    assert sha256_file(tmp_path / "a") == sha256_text("hello") == HELLO
    assert FileRecord.of(tmp_path / "a") == FileRecord(5, HELLO)


def test_differences_are_told_by_file_and_kind(tmp_path: Path) -> None:
    for name in ("same", "cut", "changed", "gone", "sub/deep"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"hello")
    recorded = record_files(tmp_path)
    assert list(recorded) == ["changed", "cut", "gone", "same", "sub/deep"]
    (tmp_path / "cut").write_bytes(b"hell")
    (tmp_path / "changed").write_bytes(b"hallo")
    (tmp_path / "gone").unlink()
    (tmp_path / "further").write_bytes(b"")
    assert differing_files(tmp_path, recorded, hashes=True) == [
        "changed was changed",
        "cut has 4 bytes instead of 5",
        "gone is missing",
    ]
    assert differing_files(tmp_path, recorded, hashes=False) == [
        "cut has 4 bytes instead of 5",
        "gone is missing",
    ]


def test_names_of_what_is_staged_are_hidden(tmp_path: Path) -> None:
    """Globs pass hidden files over, so that no half-written file is ever read as a whole one."""
    with atomic_write(tmp_path / "a.jsonl"):
        assert all(name.startswith(files._STAGED) for name in names(tmp_path))
        assert list(tmp_path.glob("[!.]*")) == []


def test_files_of_a_folder_are_for_whom_the_user_lets_read(tmp_path: Path) -> None:
    """safetensors makes its own for their owner alone; whoever serves the adapter may be another user."""
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "adapter") as folder:
            (folder / "private").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "adapter" / "private").stat().st_mode & 0o777 == 0o640


def test_a_discarded_folder_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "file").touch()
    monkeypatch.setattr(files.shutil, "rmtree", lambda *a, **k: None)
    files.discard(tmp_path / "step")
    assert [p.name[:8] for p in tmp_path.iterdir()] == [".staged-"]
    monkeypatch.undo()
    remove_staged(tmp_path)
    assert list(tmp_path.iterdir()) == []
    files.discard(tmp_path / "step")
