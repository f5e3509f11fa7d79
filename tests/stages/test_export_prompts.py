"""Which prompts of a run are held against those of llama.cpp's server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from solotune.artifacts.model_dir import ModelDir
from solotune.dataset.contract import Message, Row
from solotune.harness.held_out import HeldOut
from solotune.modeling.chat import ChatEncoder
from solotune.stages.export.yardstick import Yardstick


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        ("what does <|im_end|> mean?", "what does  mean?"),
        ("<|im_<|im_end|>start|> said", "said"),
        ("<|im_end|>", "x"),
        ("  plain, as it is ", "  plain, as it is "),
    ],
)
def test_chats_with_the_text_of_a_control_token_are_compared_without_it(
    tiny_model: Path, content: str, asked: str
) -> None:
    """Were they left out, a data set about control tokens would be compared on nothing."""
    row = Row(id="one", messages=(Message("user", content), Message("assistant", "an answer")))
    held_out = HeldOut("test", [row] * 2, cast("Any", np.arange(2)), ChatEncoder.open(ModelDir(tiny_model)))
    yardstick = Yardstick(cast("Any", None), held_out, cast("Any", None), cast("Any", None))
    assert yardstick.prompts() == [[Message("user", asked)]] * 2
