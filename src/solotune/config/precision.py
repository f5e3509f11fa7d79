"""`dtype: auto`: bfloat16, but float32 on a processor where that is many times faster."""

from __future__ import annotations

from pathlib import Path

from solotune.config.schema import RunConfig

SLOW = "bfloat16 is some twenty times slower than float32 on a processor without AVX-512, such as this one"


def chosen(config: RunConfig) -> RunConfig:
    """The config with a type for every `auto`, so that a run's own config says what it computes in."""
    model, quantization = config.model, config.quantization
    if model.dtype == "auto":
        is_fast = config.device == "cuda" or has_fast_bfloat16()
        model = model.model_copy(update={"dtype": "bfloat16" if is_fast else "float32"})
    if quantization and quantization.bnb_4bit_compute_dtype == "auto":
        quantization = quantization.model_copy(update={"bnb_4bit_compute_dtype": model.dtype})
    return config.model_copy(update={"model": model, "quantization": quantization})


def has_fast_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether torch has products in bfloat16 for this processor (oneDNN's need AVX-512); Arm's aren't looked at."""
    told = cpuinfo.read_text() if cpuinfo.exists() else ""
    flags = next((line.split() for line in told.splitlines() if line.startswith("flags")), ["avx512bw"])
    return "avx512bw" in flags


def slow_here(config: RunConfig) -> list[str]:
    """The keys of a config whose type this processor is slow in (`SLOW`)."""
    if config.device != "cpu" or has_fast_bfloat16():
        return []
    types = {"model.dtype": config.model.dtype}
    if config.quantization:
        types["quantization.bnb_4bit_compute_dtype"] = config.quantization.bnb_4bit_compute_dtype
    return [key for key, dtype in types.items() if dtype == "bfloat16"]
