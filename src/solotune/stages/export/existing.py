"""What of an export is there already, and is left as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from solotune.artifacts.files import differing_files, discard, read_record, remove_staged
from solotune.artifacts.measured import ExportRecord
from solotune.artifacts.run_dir import RunDir
from solotune.errors import ArtifactError
from solotune.stages.export.gguf import TYPES


def open_export(run_dir: RunDir) -> ExportRecord | None:
    """The record of what was exported before, after proof that it is whole; None where there is none.

    What a killed export left is deleted: without its line in export.json nothing was finished.

    Raises:
        ArtifactError: a file is missing or was changed.
    """
    remove_staged(run_dir.path)
    if not run_dir.export_record.exists():
        shutil.rmtree(run_dir.export, ignore_errors=True)
        return None
    record = read_record(run_dir.export_record, ExportRecord, f"invoke export --run {run_dir.run_id}")
    for artefact in record.artefacts.values():
        if artefact.path is None:
            continue
        damage = differing_files(run_dir.path / artefact.path, artefact.files, hashes=True)
        if damage:
            raise ArtifactError(
                f"{run_dir.path / artefact.path} isn't what was exported: {'; '.join(damage)}",
                f"Delete the export to make it again: `rm -r {run_dir.export}`",
            )
    _clear(run_dir, record)
    return record


@contextmanager
def nothing_half_left(run_dir: RunDir, before: ExportRecord | None) -> Iterator[None]:
    """Takes away what a failed export wrote, and leaves what was there before."""
    try:
        yield
    except BaseException:
        if before is None:
            shutil.rmtree(run_dir.export, ignore_errors=True)
        else:
            _clear(run_dir, before)
        raise


def _clear(run_dir: RunDir, record: ExportRecord) -> None:
    """Deletes folders of export/ that only we write and that the record doesn't know."""
    known = {run_dir.path / artefact.path for artefact in record.artefacts.values() if artefact.path}
    ours = [run_dir.export / name for name in ("adapter", "merged", *(f"gguf/{kind}" for kind in TYPES))]
    for folder in ours:
        if folder not in known:
            discard(folder)
    for folder in (run_dir.export, run_dir.export / "gguf"):
        remove_staged(folder)
