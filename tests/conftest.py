"""A clean environment, and the smallest real model that the whole chain can run on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.tiny import make_experiment, make_model, make_tokenizer

# One commit, one verdict. To look for more: pytest --hypothesis-profile explore, as often as one likes.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=3000)
settings.load_profile("repeatable")

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's runs of the tests, too, see what a hang-up does


@pytest.fixture(autouse=True)
def clean_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test begins and ends with the same environment variables, offline."""
    before = dict(os.environ)
    for name in ("HF_TOKEN", "SOLOTUNE_COMMAND", "SOLOTUNE_MODELS", "CUDA_VISIBLE_DEVICES"):
        os.environ.pop(name, None)
    os.environ["SOLOTUNE_COMMAND"] = "invoke"
    os.environ["SOLOTUNE_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUBLAS_WORKSPACE_CONFIG=":4096:8")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer files of a byte-level BPE of 400 tokens with ChatML's control tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of 64 hidden units, as somebody would bring it."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, tiny_tokenizer)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository root, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLOTUNE_MODELS", raising=False)
    return tmp_path


@pytest.fixture
def small_experiment(workspace: Path, tiny_model: Path) -> Path:
    """A config in the workspace, with 60 raw rows, for the tiny model: QLoRA on the CPU, six steps."""
    return make_experiment(workspace, tiny_model)
