"""runs/<run_id>/checkpoints/step-NNNNNN/: whole or not there, newest first."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from solotune.artifacts.files import (
    FileRecord,
    atomic_folder,
    differing_files,
    discard,
    record_files,
    remove_staged,
    write_json,
)
from solotune.errors import ArtifactError

SCHEMA_VERSION = 3
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
STATE_TENSORS = "state.safetensors"
"""Moments of the optimiser, and the generators of torch."""
STATE_VALUES = "state.json"
"""What of optimiser, learning rate and generators isn't a tensor."""
TRAINER_STATE = "trainer_state.json"
"""Step, epoch and loss history, as upstream writes them."""
CONTENTS = (*ADAPTER, STATE_TENSORS, STATE_VALUES, TRAINER_STATE)
_STEP = re.compile(r"step-(\d{6,})")


class Origin(msgspec.Struct, frozen=True):
    """What a checkpoint is of."""

    config_sha256: str
    """Of the run's config.yaml."""
    order_sha256: str
    """Of the packs: which rows are in which sequence."""


class CheckpointManifest(msgspec.Struct, frozen=True):
    schema_version: int
    step: int
    files: dict[str, FileRecord]
    origin: Origin


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; need not be there yet.
    """

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
    def saving(self, step: int, origin: Origin) -> Iterator[Path]:
        """Yields a folder to fill; it becomes the checkpoint of `step`, with a manifest of hashes, when the block ends.

        A folder of that name that is there already (a run that was resumed before it) is replaced.
        """
        target = self.path(step)
        discard(target)
        with atomic_folder(target) as staged:
            yield staged
            manifest = CheckpointManifest(SCHEMA_VERSION, step, record_files(staged), origin)
            write_json(staged / "manifest.json", manifest)

    def manifest(self, step: int) -> CheckpointManifest:
        """Of a checkpoint that is whole."""
        return msgspec.json.decode((self.path(step) / "manifest.json").read_bytes(), type=CheckpointManifest)

    def _of_another_run(self, step: int, origin: Origin | None) -> list[str]:
        found = self.manifest(step).origin
        if origin is None or found == origin:
            return []
        return [f"manifest.json is of other {'packs' if found.order_sha256 != origin.order_sha256 else 'settings'}"]

    def newest_whole(self, origin: Origin | None = None) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose every byte is as written, and what was wrong with newer ones.

        Args:
            origin: of the run's checkpoints; one of another is set aside too.

        Broken ones are renamed to `broken-…`, so that nothing takes them for whole later.

        Raises:
            ArtifactError: none is whole, and there are some that another solotune made, or that the disk didn't let us
                read; all stay where they are.
        """
        if self.folder.is_dir():
            remove_staged(self.folder)
        broken: dict[Path, str] = {}
        whole, unread = None, None
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                damage = _damage(path) or self._of_another_run(step, origin)
            except OSError as error:
                # A bad sector is damage where another one can be read. A mount that went away damages nothing.
                if error.errno not in (errno.EIO, errno.ENOTDIR):
                    raise _unreadable(path, error) from error
                unread = error if error.errno == errno.EIO else unread
                damage = [f"it can't be read ({error.strerror})"]
            if not damage:
                whole = path
                break
            broken[path] = f"{path.name}: {'; '.join(damage)}"
        if whole is None:  # beside a whole one of ours it can only be a damaged number
            for path in broken:
                _refuse_other_version(path)
            if unread:
                raise _unreadable(self.folder, unread) from unread
        for path in broken:
            path.rename(_unused(self.folder / f"broken-{path.name}"))
        return whole, list(broken.values())

    def keep_newest(self, count: int) -> None:
        """Deletes all but the newest `count` (at least 2)."""
        assert count >= 2
        for step in self.steps()[:-count]:
            discard(self.path(step))

    def drop_after(self, step: int) -> None:
        """Deletes checkpoints of later steps: a run that goes on from `step` makes them anew."""
        for later in self.steps():
            if later > step:
                discard(self.path(later))


def _damage(path: Path) -> list[str]:
    try:
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=CheckpointManifest)
    except FileNotFoundError:
        return ["manifest.json is missing"]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return [f"manifest.json is damaged ({error})"]
    if manifest.schema_version != SCHEMA_VERSION:
        return [f"manifest.json has schema_version {manifest.schema_version}, not {SCHEMA_VERSION}"]
    if f"step-{manifest.step:06d}" != path.name:
        return [f"manifest.json is of step {manifest.step}"]
    # A file that nobody wrote down would be missed by nobody: upstream goes on without it, and with fresh moments.
    unlisted = [name for name in CONTENTS if name not in manifest.files]
    if unlisted:
        return [f"manifest.json lists no {', '.join(unlisted)}"]
    return differing_files(path, manifest.files, hashes=True)


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"{path} can't be read now ({error.strerror}); no checkpoint was set aside",
        "See to the disk or the mount, then run the same command again",
    )


class _Version(msgspec.Struct):
    schema_version: int


def _refuse_other_version(path: Path) -> None:
    """A checkpoint of another solotune isn't broken: it stays where it is."""
    try:
        version = msgspec.json.decode((path / "manifest.json").read_bytes(), type=_Version).schema_version
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version}, this solotune reads {SCHEMA_VERSION}",
            "Go on with the solotune that made it (git_commit in the run's manifest.json), or start a new run",
        )


def _unused(path: Path) -> Path:
    for i in range(1000):
        candidate = path if i == 0 else path.with_name(f"{path.name}-{i}")
        if not candidate.exists():
            return candidate
    raise ArtifactError(f"{path.parent} holds too many broken checkpoints", "Delete its broken-* folders")
