from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.chat import ChatEncoder


@pytest.fixture
def encoder(tiny_tokenizer: Path) -> ChatEncoder:
    return ChatEncoder.open(ModelDir(tiny_tokenizer))


class Converted(NamedTuple):
    """A GGUF file, the folder that it was made of, and by what."""

    path: Path
    merged: Path
    made_by: str


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The tiny model as an f32 GGUF, converted where a folder lies that the converter must not take for its own.

    Its tokenizer_config.json has a chat template that isn't the run's, and wants a token behind every text.
    """
    from solotune.modeling.gguf_export import convert

    folder = tmp_path_factory.mktemp("gguf")
    merged = folder / "merged"
    shutil.copytree(tiny_model, merged)
    config = json.loads((merged / "tokenizer_config.json").read_text())
    config |= {"chat_template": "{{ messages }}", "add_eos_token": True}
    (merged / "tokenizer_config.json").write_text(json.dumps(config))
    stranger = folder / "conversion" / "__init__.py"
    stranger.parent.mkdir()
    stranger.write_text("raise SystemExit('a stranger was imported')")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made_by = convert(merged, folder / "tiny.gguf", "f32", name="a light switch")
    return Converted(folder / "tiny.gguf", merged, made_by)
