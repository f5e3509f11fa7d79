"""What of an export is there already, and is left as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from solotune.artifacts.files import discard, remove_staged
from solotune.artifacts.measured import ExportRecord, damage_of
from solotune.artifacts.run_dir import RunDir
from solotune.config.gguf_types import TYPES
from solotune.errors import ArtifactError


def open_export(run_dir: RunDir) -> ExportRecord | None:
    """The record of what was exported before, after proof that it is whole; None where there is none.

    What a killed export left is deleted: without its line in export.json nothing was finished.

    Raises:
        ArtifactError: a file is missing or was changed.
    """
    remove_staged(run_dir.path)
    record = run_dir.exported()
    for artefact in record.artefacts.values() if record else ():
        if artefact.path:
            remove_staged(run_dir.path / artefact.path)  # a card is written into a folder that stands already
        damage = damage_of(artefact, run_dir.path)
        if damage:
            raise ArtifactError(
                f"{run_dir.path / str(artefact.path)} isn't what was exported: {'; '.join(damage)}",
                f"Delete the export to make it again: `rm -r {run_dir.export}`",
            )
    _clear(run_dir, record)
    return record


@contextmanager
def nothing_half_left(run_dir: RunDir) -> Iterator[None]:
    """Takes away what a failed export wrote, and leaves what its record says is whole."""
    try:
        yield
    except BaseException:
        _clear(run_dir, run_dir.exported())
        raise


def _clear(run_dir: RunDir, record: ExportRecord | None) -> None:
    """Deletes folders of export/ that only we write and that the record doesn't know; what else is there is yours."""
    artefacts = record.artefacts.values() if record else ()
    known = {run_dir.path / artefact.path for artefact in artefacts if artefact.path}
    ours = [run_dir.export / name for name in ("adapter", "merged", *(f"gguf/{kind}" for kind in TYPES))]
    for folder in ours:
        if folder not in known:
            discard(folder)
    for folder in (run_dir.export, run_dir.export / "gguf"):
        remove_staged(folder)
    for folder in (run_dir.export / "gguf", run_dir.export):
        with suppress(OSError):  # it isn't empty, or not there
            folder.rmdir()
