"""What a run read, and whether it is still there as it was."""

from __future__ import annotations

from pathlib import Path

from solotune.artifacts.files import differing_files, sha256_text
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig
from solotune.errors import ArtifactError


def refuse_other_inputs(first: RunDir, manifest: RunManifest, config: RunConfig, path: Path) -> None:
    """Raises ArtifactError where data, base model or template aren't those of the run: it would be another run."""
    splits, base = SplitsDir(Path(config.dataset.splits_dir)), ModelDir.of(config.model)
    if not splits.is_complete:
        raise ArtifactError(
            f"the splits of run {first.run_id} aren't in {splits.path}",
            f"`invoke prepare --config {path}` makes them from the raw rows; then this command again",
        )
    changed = differing_files(splits.path, manifest.splits, hashes=True)
    if changed:
        raise ArtifactError(
            f"the splits in {splits.path} aren't those of run {first.run_id}: {'; '.join(changed)}",
            f"`invoke prepare --config {path} --replace` makes them again, where the raw rows are still the same",
        )
    base.open_as_trained(first.run_id, manifest.base_model)
    template = config.model.chat_template_path
    if template and sha256_text(Path(template).read_text(encoding="utf-8")) != manifest.template_sha256:
        raise ArtifactError(
            f"the chat template {template} was changed since run {first.run_id} began",
            f"The one that it was trained with is {first.adapter / base.chat_template.name}",
        )
