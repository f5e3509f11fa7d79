from __future__ import annotations

from pathlib import Path

import pytest

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.chat import ChatEncoder


@pytest.fixture
def encoder(tiny_tokenizer: Path) -> ChatEncoder:
    return ChatEncoder.open(ModelDir(tiny_tokenizer))
