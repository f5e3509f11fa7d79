"""`dtype: auto` is what this processor is fast in; what a config names stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import make_config

from solotune.config import precision
from solotune.config.load import load
from solotune.config.schema import RunConfig

ROOT = Path(__file__).parents[2]


def with_fast_bfloat16(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda: fast)


def config_of(device: str, dtype: str) -> RunConfig:
    model = {"name_or_path": "somewhere", "source": "folder", "dtype": dtype}
    return make_config(device=device, model=model, quantization={"bnb_4bit_compute_dtype": dtype})


def types(config: RunConfig) -> tuple[str, Any]:
    return config.model.dtype, config.quantization and config.quantization.bnb_4bit_compute_dtype


@pytest.mark.parametrize(
    ("device", "fast", "chosen"),
    [
        ("cpu", True, "bfloat16"),
        ("cpu", False, "float32"),
        ("cuda", False, "bfloat16"),
        ("cuda", True, "bfloat16"),
    ],
)
def test_auto_is_float32_only_on_a_cpu_that_is_slow_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, device: str, fast: bool, chosen: str
) -> None:
    with_fast_bfloat16(monkeypatch, fast)
    assert types(precision.chosen(config_of(device, "auto"))) == (chosen, chosen)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_type_that_a_config_names_stays(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    with_fast_bfloat16(monkeypatch, False)
    config = config_of("cpu", dtype)
    assert precision.chosen(config) == config


def test_what_is_loaded_has_no_auto_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run's own config says what it computes in."""
    for fast, chosen in ((False, "float32"), (True, "bfloat16")):
        with_fast_bfloat16(monkeypatch, fast)
        assert types(load(ROOT / "configs" / "smoke.yaml")) == (chosen, chosen)
        assert types(load(ROOT / "configs" / "smoke.yaml", ["quantization=null"])) == (chosen, None)


def test_a_type_that_this_processor_is_slow_in_is_worth_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    with_fast_bfloat16(monkeypatch, False)
    assert "model.dtype: auto" in precision.slow_on_this_cpu(config_of("cpu", "bfloat16"))
    assert not precision.slow_on_this_cpu(config_of("cpu", "float32"))
    assert not precision.slow_on_this_cpu(config_of("cuda", "bfloat16"))
    with_fast_bfloat16(monkeypatch, True)
    assert not precision.slow_on_this_cpu(config_of("cpu", "bfloat16"))


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        ("model name\t: a\nflags\t\t: fpu avx2 avx512f avx512bw\n", True),
        ("model name\t: a\nflags\t\t: fpu avx2\n", False),
        ("Features\t: fp asimd\n", True),
        (None, True),
    ],
)
def test_what_a_processor_has_is_read_from_its_flags(tmp_path: Path, cpuinfo: str | None, fast: bool) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    assert precision.has_fast_bfloat16(file) is fast
