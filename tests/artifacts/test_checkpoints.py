from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from solotune.artifacts import checkpoints as module
from solotune.artifacts.checkpoints import CONTENTS, SCHEMA_VERSION, Checkpoints, Origin
from solotune.artifacts.files import write_json
from solotune.errors import ArtifactError

ORIGIN = Origin("0" * 64, "1" * 64)


def save(checkpoints: Checkpoints, step: int) -> Path:
    with checkpoints.saving(step, ORIGIN) as folder:
        for name in CONTENTS:
            (folder / name).write_bytes(b"contents!")
        (folder / "adapter_model.safetensors").write_bytes(bytes(1000) + step.to_bytes(4))
    return checkpoints.path(step)


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest_whole() == (None, [])
    for step in (2, 10, 4):
        save(checkpoints, step)
    assert checkpoints.newest_whole() == (checkpoints.path(10), [])


def flip(path: Path) -> None:
    data = bytearray((path / "adapter_model.safetensors").read_bytes())
    data[500] ^= 1
    (path / "adapter_model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "adapter_model.safetensors was changed"),
        (lambda p: (p / "state.safetensors").unlink(), "state.safetensors is missing"),
        (lambda p: (p / "state.safetensors").write_bytes(b"opt"), "has 3 bytes instead of 9"),
        (lambda p: (p / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (
            lambda p: (p / "manifest.json").write_text((p.parent / "step-000002/manifest.json").read_text()),
            "manifest.json is of step 2",
        ),
    ],
)
def test_a_broken_one_is_set_aside_and_the_one_before_is_taken(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)
    damage(save(checkpoints, 4))
    found, set_aside = checkpoints.newest_whole()
    assert found == checkpoints.path(2)
    assert len(set_aside) == 1
    assert said in set_aside[0]
    assert (checkpoints.folder / "broken-step-000004").is_dir()
    assert checkpoints.steps() == [2]


def test_a_disk_that_cant_be_read_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)
    save(checkpoints, 4)
    for number in (errno.EMFILE, errno.ESTALE, errno.EACCES, errno.EIO):

        def refuse(*_: object, number: int = number, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(module, "differing_files", refuse)
            with pytest.raises(ArtifactError, match="no checkpoint was set aside"):
                checkpoints.newest_whole()
        assert checkpoints.newest_whole() == (checkpoints.path(4), [])


def test_a_bad_sector_is_damage_where_another_checkpoint_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)
    save(checkpoints, 4)
    real = module.differing_files

    def read(folder: Path, *given: Any, **named: Any) -> list[str]:
        if folder.name == "step-000004":
            raise OSError(errno.EIO, "Input/output error")
        return real(folder, *given, **named)

    monkeypatch.setattr(module, "differing_files", read)
    whole, set_aside = checkpoints.newest_whole()
    assert whole == checkpoints.path(2)
    assert set_aside == ["step-000004: it can't be read (Input/output error)"]


def test_a_save_that_fails_leaves_the_others_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)

    def save_on_a_full_disk() -> None:
        with checkpoints.saving(4, ORIGIN) as folder:
            (folder / "adapter_model.safetensors").write_bytes(b"half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        save_on_a_full_disk()
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step-000002"]


def test_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)
    left = checkpoints.folder / ".staged-step-000004.123"
    left.mkdir()
    (left / "adapter_model.safetensors").write_bytes(b"half")
    assert checkpoints.newest_whole()[0] == checkpoints.path(2)
    assert not left.exists()


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (2, 4, 6, 8):
        save(checkpoints, step)
    checkpoints.keep_newest(2)
    assert checkpoints.steps() == [6, 8]
    checkpoints.drop_after(6)
    assert checkpoints.steps() == [6]


def test_a_manifest_that_forgets_a_file_is_broken(tmp_path: Path) -> None:
    """Upstream goes on without a missing optimizer, with fresh moments."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)
    path = save(checkpoints, 4)
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["files"]["state.safetensors"]
    write_json(path / "manifest.json", manifest)
    found, set_aside = checkpoints.newest_whole()
    assert found == checkpoints.path(2)
    assert set_aside == ["step-000004: manifest.json lists no state.safetensors"]


def test_a_checkpoint_of_another_solotune_stays_where_it_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    path = save(checkpoints, 2)
    manifest = json.loads((path / "manifest.json").read_text())
    write_json(path / "manifest.json", {**manifest, "schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(ArtifactError, match=f"has schema_version {SCHEMA_VERSION + 1}"):
        checkpoints.newest_whole()
    assert path.is_dir()


def test_beside_a_whole_one_another_version_is_a_damaged_number(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    whole = save(checkpoints, 2)
    path = save(checkpoints, 4) / "manifest.json"
    write_json(path, {**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1})
    found, set_aside = checkpoints.newest_whole()
    assert found == whole
    assert set_aside == [f"step-000004: manifest.json has schema_version {SCHEMA_VERSION + 1}, not {SCHEMA_VERSION}"]


def test_a_deletion_that_is_cut_off_leaves_nothing_that_has_a_checkpoints_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (2, 4, 6):
        save(checkpoints, step)
    monkeypatch.setattr("solotune.artifacts.files.shutil.rmtree", lambda *a, **k: None)  # a kill before it began
    checkpoints.keep_newest(2)
    assert checkpoints.steps() == [4, 6]
    monkeypatch.undo()
    assert len(list(checkpoints.folder.iterdir())) == 3
    checkpoints.newest_whole()
    assert len(list(checkpoints.folder.iterdir())) == 2


def test_the_order_of_the_packs_is_remembered(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)
    assert checkpoints.manifest(2).origin == ORIGIN
