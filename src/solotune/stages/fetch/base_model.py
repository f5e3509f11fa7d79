"""A base model: hub, folder or Python package -> models/<name>--<revision>/."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from solotune import __version__
from solotune.artifacts.files import atomic_folder, make_folder, record_files, remove_staged, write_json
from solotune.artifacts.lock import held
from solotune.artifacts.model_dir import SCHEMA_VERSION, ModelDir, ModelManifest
from solotune.config.schema import ModelConfig
from solotune.console import say
from solotune.errors import ArtifactError, ModelError
from solotune.stages.fetch.hub import Asked, token, trouble_in_one_line

# Weights as safetensors only: the other formats can hold programs.
WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
UNWANTED = ("original/*", "onnx/*", "*.safetensors.index.json.bak", "consolidated*.safetensors")


def bring(model: ModelConfig) -> ModelDir:
    """Brings the base model, unless it is there; the folder appears whole or not at all.

    Raises:
        ModelError: it can't be found, reached or used.
    """
    base = ModelDir.of(model)
    if base.is_complete:
        base.open()
        say(f"{model.name_or_path} is in {base.path} already")
        return base
    if base.path.exists():
        raise ArtifactError(f"{base.path} is unfinished: manifest.json is missing", "Delete it and fetch again")
    make_folder(base.path.parent)
    with held(base.path.parent, f"fetch ({model.name_or_path})"):
        return _bring(model, base)


def _bring(model: ModelConfig, base: ModelDir) -> ModelDir:
    if base.is_complete:  # by whoever held the folder until now
        base.open()
        return base
    remove_staged(base.path.parent)
    with atomic_folder(base.path) as staged:
        {"hub": _from_hub, "folder": _from_folder, "package": _from_package}[model.source](model, staged)
        _check(model, staged)
        manifest = ModelManifest(
            schema_version=SCHEMA_VERSION,
            name_or_path=model.name_or_path,
            source=model.source,
            revision=model.revision,
            files=record_files(staged),
            license=_license(model, staged),
            solotune=__version__,
        )
        write_json(staged / "manifest.json", manifest)
    size = sum(f.bytes for f in manifest.files.values())
    say(f"{model.name_or_path}: {len(manifest.files)} files, {size / 2**30:.2f} GiB in {base.path}")
    return base


def _from_hub(model: ModelConfig, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    assert model.revision, "the schema asks for it"
    asked = Asked(
        kind="model",
        name=model.name_or_path,
        revision=model.revision,
        key="model.name_or_path",
        revision_key="model.revision",
        without_hub="bring the files yourself and set model.source: folder",
        error=ModelError,
    )
    with trouble_in_one_line(asked):
        snapshot_download(
            model.name_or_path,
            revision=model.revision,
            local_dir=folder,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            token=token(),
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _from_folder(model: ModelConfig, folder: Path) -> None:
    source = Path(model.name_or_path)
    if not source.is_dir():
        raise ModelError(
            f"model.name_or_path: {source} is not a folder", "Give a folder with config.json and safetensors"
        )
    for pattern in WANTED:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and file.name != "manifest.json":
                shutil.copyfile(file, folder / file.name)


def _from_package(model: ModelConfig, folder: Path) -> None:
    from solotune.modeling.gguf import convert

    package, _, name = model.name_or_path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"no Python package {package!r} is installed", f"Install it: `uv add {package}=={model.revision}`"
        )
    installed = _distribution_version(package)
    if installed != model.revision:
        raise ModelError(
            f"{package} {installed} is installed, the config pins {model.revision}",
            "Change model.revision or the package",
        )
    file = Path(spec.origin).parent / name
    if not file.is_file():
        raise ModelError(f"{package} holds no file {name}")
    say(f"converting {name} (half a minute)")
    convert(file, folder)


def _check(model: ModelConfig, folder: Path) -> None:
    """Refuses what couldn't be trained on, before it takes its place."""
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{model.name_or_path} has no safetensors; other formats can hold programs and are not loaded",
            "Choose a revision with safetensors",
        )
    missing = [n for n in ("config.json", "tokenizer.json", "tokenizer_config.json") if not (folder / n).is_file()]
    if missing:
        raise ModelError(f"{model.name_or_path} has no {' and no '.join(missing)}")
    for file in sorted(folder.glob("*.json")):
        _read_json(file)
    _check_shards(folder)
    if "auto_map" in _read_json(folder / "config.json"):
        raise ModelError(
            f"{model.name_or_path} asks to run code that came with it (auto_map in config.json)",
            "solotune never does; use a model of an architecture that transformers has",
        )
    if not (folder / "chat_template.jinja").is_file():
        _take_template_out(model, folder)


def _check_shards(folder: Path) -> None:
    """Each shard that the index names is there, and each has a header and a length that fit."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_read_json(index)["weight_map"].values())
        missing = sorted(s for s in shards if not (folder / s).is_file())
        if missing:
            raise ModelError(
                f"{len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:3])}", "Bring them all"
            )
    for shard in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(shard, framework="numpy"):
                pass
        except SafetensorError as error:
            raise ModelError(f"{shard.name} is cut or no safetensors file: {error}", "Bring it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path.name} isn't valid JSON: {error}", "Bring it again") from error
    return value if isinstance(value, dict) else {}


def _take_template_out(model: ModelConfig, folder: Path) -> None:
    """Older models keep the template inside tokenizer_config.json."""
    template = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif not model.chat_template_path:
        raise ModelError(
            f"{model.name_or_path} has no chat template: it is not an instruction model",
            "Choose its instruct version, or set model.chat_template_path",
        )


def _license(model: ModelConfig, folder: Path) -> str | None:
    if model.source == "package":
        return importlib.metadata.metadata(model.name_or_path.partition("/")[0])["License"]
    card = folder / "README.md"
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.is_file() else []:
        if line.startswith("license:"):
            return line.removeprefix("license:").strip()
    return None


def _distribution_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
