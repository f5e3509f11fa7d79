"""`dtype: auto`: bfloat16, but float32 on a processor where that is many times faster."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from solotune.config.schema import RunConfig


def chosen(config: RunConfig) -> RunConfig:
    """The config with a type for every `auto`, so that a run's own config says what it computes in."""
    dtype: Literal["bfloat16", "float32"] = (
        "float32" if config.device == "cpu" and not has_fast_bfloat16() else "bfloat16"
    )
    model, quantization = config.model, config.quantization
    if model.dtype == "auto":
        model = model.model_copy(update={"dtype": dtype})
    if quantization and quantization.bnb_4bit_compute_dtype == "auto":
        quantization = quantization.model_copy(update={"bnb_4bit_compute_dtype": dtype})
    return config.model_copy(update={"model": model, "quantization": quantization})


def has_fast_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether torch has products in bfloat16 for this processor (oneDNN's need AVX-512); Arm's aren't looked at."""
    told = cpuinfo.read_text() if cpuinfo.exists() else ""
    flags = next((line.split() for line in told.splitlines() if line.startswith("flags")), ["avx512bw"])
    return "avx512bw" in flags


def slow_on_this_cpu(config: RunConfig) -> str:
    """What to say of a config whose type this processor is slow in, or "" when there is nothing to say."""
    if config.device != "cpu" or config.model.dtype != "bfloat16" or has_fast_bfloat16():
        return ""
    return (
        "bfloat16 is some twenty times slower than float32 on a processor without AVX-512, such as this one; "
        "`model.dtype: auto` and `quantization.bnb_4bit_compute_dtype: auto` take what is fast"
    )
