from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from solotune.artifacts.checkpoints import Checkpoints


def save(checkpoints: Checkpoints, step: int) -> Path:
    with checkpoints.saving(step) as folder:
        (folder / "adapter_model.safetensors").write_bytes(bytes(1000) + step.to_bytes(4))
        (folder / "optimizer.pt").write_bytes(b"optimizer")
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
        (lambda p: (p / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda p: (p / "optimizer.pt").write_bytes(b"opt"), "has 3 bytes instead of 9"),
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


def test_a_save_that_fails_leaves_the_others_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 2)

    def save_on_a_full_disk() -> None:
        with checkpoints.saving(4) as folder:
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
