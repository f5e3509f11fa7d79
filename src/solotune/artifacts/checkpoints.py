"""runs/<run_id>/checkpoints/step-NNNNNN/: whole or not there, newest first."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from solotune.artifacts.files import (
    FileRecord,
    atomic_folder,
    differing_files,
    record_files,
    remove_staged,
    write_json,
)
from solotune.errors import ArtifactError

SCHEMA_VERSION = 1
_STEP = re.compile(r"step-(\d{6,})")


class CheckpointManifest(msgspec.Struct, frozen=True):
    schema_version: int
    step: int
    files: dict[str, FileRecord]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def steps(self) -> list[int]:
        """Steps that have a folder, oldest first; whether it is whole isn't looked at."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := _STEP.fullmatch(p.name)))

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    @contextmanager
    def saving(self, step: int) -> Iterator[Path]:
        """Yields a folder to fill; it becomes the checkpoint of `step`, with a manifest of hashes, when the block ends.

        A folder of that name that is there already (a run that was resumed before it) is replaced.
        """
        target = self.path(step)
        if target.exists():
            shutil.rmtree(target)
        with atomic_folder(target) as staged:
            yield staged
            write_json(staged / "manifest.json", CheckpointManifest(SCHEMA_VERSION, step, record_files(staged)))

    def newest_whole(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose every byte is as written, and what was wrong with newer ones.

        Broken ones are renamed to `broken-…`, so that nothing takes them for whole later.
        """
        if self.folder.is_dir():
            remove_staged(self.folder)
        set_aside: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            damage = _damage(path)
            if not damage:
                return path, set_aside
            set_aside.append(f"{path.name}: {'; '.join(damage)}")
            path.rename(_unused(self.folder / f"broken-{path.name}"))
        return None, set_aside

    def keep_newest(self, count: int) -> None:
        """Deletes all but the newest `count` (at least 2)."""
        assert count >= 2
        for step in self.steps()[:-count]:
            shutil.rmtree(self.path(step))

    def drop_after(self, step: int) -> None:
        """Deletes checkpoints of later steps: a run that goes on from `step` makes them anew."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self.path(later))


def _damage(path: Path) -> list[str]:
    try:
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=CheckpointManifest)
    except FileNotFoundError:
        return ["manifest.json is missing"]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return [f"manifest.json is damaged ({error})"]
    if f"step-{manifest.step:06d}" != path.name:
        return [f"manifest.json is of step {manifest.step}"]
    if not manifest.files:
        return ["manifest.json lists no files"]
    return differing_files(path, manifest.files, hashes=True)


def _unused(path: Path) -> Path:
    for i in range(1000):
        candidate = path if i == 0 else path.with_name(f"{path.name}-{i}")
        if not candidate.exists():
            return candidate
    raise ArtifactError(f"{path.parent} holds too many broken checkpoints", "Delete its broken-* folders")
