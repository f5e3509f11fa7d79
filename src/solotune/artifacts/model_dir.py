"""models/<name>--<revision>/: a base model as `fetch` left it: safetensors, tokenizer, chat template, hashes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from solotune.artifacts.fetched import MADE_BY, readable, refuse_damaged
from solotune.artifacts.files import FileRecord, read_record, sha256_text
from solotune.config.schema import ModelConfig
from solotune.errors import ArtifactError

SCHEMA_VERSION = 1


class ModelManifest(msgspec.Struct, frozen=True):
    """What was fetched."""

    schema_version: int
    name_or_path: str
    source: str
    revision: str | None
    files: dict[str, FileRecord]
    license: str | None
    """As the source states it; for the model card."""
    solotune: str


class ModelDir:
    """Paths of one fetched base model. A manifest in it means that all of it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_path = path / "manifest.json"
        self.config = path / "config.json"
        self.tokenizer = path / "tokenizer.json"
        self.tokenizer_config = path / "tokenizer_config.json"
        self.generation_config = path / "generation_config.json"
        self.chat_template = path / "chat_template.jinja"

    @classmethod
    def of(cls, model: ModelConfig) -> ModelDir:
        """The folder for `model`: below models/, or below SOLOTUNE_MODELS where that is set (the image's volume)."""
        root = Path(os.environ.get("SOLOTUNE_MODELS", "models"))
        pin = model.revision[:12] if model.revision else sha256_text(model.name_or_path)[:12]
        return cls(root / f"{readable(model.name_or_path)}--{pin}")

    @property
    def is_complete(self) -> bool:
        return self.manifest_path.is_file()

    def weight_files(self) -> list[Path]:
        return sorted(self.path.glob("*.safetensors"))

    def open_as_trained(self, run_id: str, files: dict[str, FileRecord]) -> ModelManifest:
        """The manifest, after proof that the files are the ones that a run was trained on.

        Args:
            run_id: of the run.
            files: what the run's manifest says of its base model.

        Raises:
            ArtifactError: they aren't, or aren't there.
        """
        manifest = self.open(hashes=True)
        if manifest.files != files:
            raise ArtifactError(
                f"the base model in {self.path} isn't the one that run {run_id} was trained on",
                f"Bring that one back with `{MADE_BY}`; its files' hashes are in the run's manifest.json",
            )
        return manifest

    def open(self, *, hashes: bool = False) -> ModelManifest:
        """The manifest, after proof that every file is there with its size (with `hashes`: its contents).

        Raises:
            ArtifactError: not fetched, unfinished, or a shard is missing or cut.
        """
        if not self.path.is_dir():
            raise ArtifactError(f"the base model isn't fetched: there is no {self.path}", f"Run `{MADE_BY}`")
        manifest = read_record(self.manifest_path, ModelManifest, MADE_BY)
        refuse_damaged(self.path, manifest.files, "the base model", hashes=hashes)
        return manifest
