"""`dtype: auto` is what this processor is fast in; what a config names stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import make_config

from solotune.config import precision
from solotune.config.load import load
from solotune.config.schema import RunConfig

COMPUTE = "quantization.bnb_4bit_compute_dtype"
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


@pytest.mark.parametrize("fast", [True, False])
def test_quantised_layers_compute_in_what_the_model_has(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    with_fast_bfloat16(monkeypatch, fast)
    for dtype in ("bfloat16", "float32"):
        model = {"name_or_path": "somewhere", "source": "folder", "dtype": dtype}
        config = make_config(device="cpu", model=model, quantization={"bnb_4bit_compute_dtype": "auto"})
        assert types(precision.chosen(config)) == (dtype, dtype)


def test_what_is_loaded_has_no_auto_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a run's own config says what it computes in."""
    for fast, chosen in ((False, "float32"), (True, "bfloat16")):
        with_fast_bfloat16(monkeypatch, fast)
        assert types(load(ROOT / "configs" / "smoke.yaml")) == (chosen, chosen)
        assert types(load(ROOT / "configs" / "smoke.yaml", ["quantization=null"])) == (chosen, None)


def test_a_type_that_this_processor_is_slow_in_is_worth_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    with_fast_bfloat16(monkeypatch, False)
    assert precision.slow_here(config_of("cpu", "bfloat16")) == ["model.dtype", COMPUTE]
    assert not precision.slow_here(config_of("cpu", "float32"))
    assert not precision.slow_here(config_of("cuda", "bfloat16"))
    wide = config_of("cpu", "float32")
    assert wide.quantization is not None
    layers = wide.quantization.model_copy(update={"bnb_4bit_compute_dtype": "bfloat16"})
    assert precision.slow_here(wide.model_copy(update={"quantization": layers})) == [COMPUTE]
    assert precision.slow_here(make_config(device="cpu")) == ["model.dtype"], "a key of its own would quantise it"
    with_fast_bfloat16(monkeypatch, True)
    assert not precision.slow_here(config_of("cpu", "bfloat16"))


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
