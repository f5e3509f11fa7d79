"""What stands in export/, to be measured as it lies there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from solotune.artifacts.measured import Artefact, damage_of
from solotune.artifacts.run_dir import RunDir
from solotune.config.schema import RunConfig
from solotune.errors import ArtifactError
from solotune.modeling.base_model import load_merged_model
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.subject import Subject, TorchSubject


def exported(run_dir: RunDir) -> dict[str, Artefact]:
    """Merged models and GGUF files by their name in export.json; without the record nothing was exported.

    Raises:
        ArtifactError: a file isn't what export wrote.
    """
    record = run_dir.exported()
    if record is None:
        return {}
    found = {name: one for name, one in record.artefacts.items() if name != "adapter" and one.path is not None}
    for artefact in found.values():
        damage = damage_of(artefact, run_dir.path)
        if damage:
            raise ArtifactError(
                f"{run_dir.path / str(artefact.path)} isn't what was exported: {'; '.join(damage)}",
                f"Delete the export, to measure without it or to make it again: `rm -r {run_dir.export}`",
            )
    return found


@contextmanager
def opened(run_dir: RunDir, artefact: Artefact, encoder: ChatEncoder, config: RunConfig) -> Iterator[Subject]:
    """Loads an artefact as whoever serves it does; its memory is free again when the block ends."""
    folder = run_dir.path / str(artefact.path)
    files = [name for name in artefact.files if name.endswith(".gguf")]
    if files:
        from solotune.modeling.gguf_runtime import GgufSubject

        gguf = GgufSubject(folder / files[0], encoder, config)
        try:
            yield gguf
        finally:
            gguf.close()
        return
    plain = TorchSubject(load_merged_model(folder, config), encoder, config)
    try:
        yield plain
    finally:
        plain.close()
