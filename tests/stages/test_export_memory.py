"""On which device a merged model is measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.helpers import make_config

from solotune.modeling.card import GIB
from solotune.stages.export.yardstick import where_it_fits

EIGHT_B = int(15.0 * GIB)
"""In 16 bits."""


@pytest.mark.parametrize(
    ("card", "weights", "device"),
    [
        (24, EIGHT_B, "cuda"),  # the bound that export promises
        (24, 2 * EIGHT_B, "cpu"),  # merge_dtype: float32
        (16, EIGHT_B, "cpu"),  # QLoRA of an 8B model was trained on it
        (12, EIGHT_B // 4, "cuda"),
    ],
)
def test_a_merged_model_that_is_too_large_for_the_card_is_measured_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], card: int, weights: int, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=card * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda _: None)
    found = where_it_fits(make_config(device="cuda"), weights)
    assert found.device == device
    assert ("it is measured on the CPU" in capsys.readouterr().out) is (device == "cpu")


def test_what_was_trained_on_a_cpu_is_measured_there() -> None:
    config = make_config(device="cpu")
    assert where_it_fits(config, EIGHT_B) is config
