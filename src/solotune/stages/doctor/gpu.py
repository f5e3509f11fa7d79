"""What a run on the GPU uses, tried for real: memory, bfloat16, 4-bit layers, a Triton kernel."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

from solotune import environment
from solotune.stages.doctor import spill
from solotune.stages.doctor.finding import Finding, checked, failed

_GIB = 2**30
_DRIVER = 580
"""Lowest NVIDIA driver for CUDA 13, which torch is built with."""


def findings() -> Iterable[Finding]:
    """All checks of this group; with no GPU one warning, the rest is skipped."""
    cards = environment.gpus()
    held = holders()  # before CUDA starts here, which would be one of them
    seen = checked("gpu", lambda: gpu(cards))
    yield seen
    checks: dict[str, Callable[[], Finding]] = {
        "driver": lambda: driver(cards[0]["driver"] if cards else "unknown"),
        "vram": lambda: _vram(held),
        "spill": lambda: _spill(held),
        "bf16": bf16,
        "nf4": nf4,
        "triton": triton,
    }
    for name, check in checks.items():
        usable = seen.status == "ok" or (cards and name == "driver")
        yield checked(name, check) if usable else Finding(name, "skip", "no GPU to try it on")


def gpu(cards: Sequence[dict[str, str]]) -> Finding:
    """Whether torch can use what nvidia-smi lists."""
    import torch

    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    stop = "Configs with device: cuda will stop; device: cpu ones (smoke) run"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return Finding(
            "gpu", "warn", "hidden: CUDA_VISIBLE_DEVICES is empty", f"{stop}. `unset CUDA_VISIBLE_DEVICES` shows it"
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        if not cards:
            found = f"nvidia-smi lists none; torch: {str(error).split('.')[0]} ({versions})"
            return Finding(
                "gpu", "warn", found, f"{stop}. If there is one: `scripts/setup_wsl.sh` says why it isn't seen"
            )
        return failed("gpu", error, "torch can't use the GPU: `scripts/setup_wsl.sh`")
    major, minor = torch.cuda.get_device_capability(0)
    name = torch.cuda.get_device_name(0)
    return Finding("gpu", "ok", f"{name}, compute capability {major}.{minor}, {versions}")


def driver(version: str) -> Finding:
    """Whether the driver is new enough for CUDA 13."""
    number = re.match(r"\d+", version)
    if number is None:
        return Finding(
            "driver",
            "warn",
            f"its version can't be read: {version}",
            f"CUDA 13 needs {_DRIVER} or newer: see `nvidia-smi`",
        )
    if int(number[0]) < _DRIVER:
        return Finding(
            "driver",
            "FAIL",
            version,
            f"CUDA 13 needs {_DRIVER} or newer: https://www.nvidia.com/drivers (with WSL the driver of Windows, then "
            "`wsl --shutdown` in PowerShell)",
        )
    return Finding("driver", "ok", version)


def holders() -> list[str]:
    """Programs that hold GPU memory, as nvidia-smi names them; those of Windows aren't visible from WSL."""
    rows = environment.nvidia_smi("--query-compute-apps=pid,process_name,used_memory")
    others = [row for row in rows if len(row) == 3 and row[0] != str(os.getpid())]
    return [f"{PurePath(name).name} (pid {pid}, {memory})" for pid, name, memory in others]


def _vram(held: Sequence[str]) -> Finding:
    import torch

    free, total = torch.cuda.mem_get_info()
    return vram(free, total, held, wsl=environment.is_wsl())


def vram(free: int, total: int, held: Sequence[str], *, wsl: bool) -> Finding:
    """Whether the card's memory is free for a run.

    Args:
        free: bytes, while this process has CUDA open.
        total: bytes.
        held: programs that hold some of it.
        wsl: nothing of Windows is in `held`.
    """
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if held:
        found += f"; held by {', '.join(held)}"
    card_of_24 = 23 * _GIB <= total <= 25 * _GIB
    if free >= (22 * _GIB if card_of_24 else 0.9 * total):
        return Finding("vram", "ok", found)
    where = (
        "Windows' own programs show only in Task Manager > Performance > GPU"
        if wsl
        else "`nvidia-smi`, outside of the container, lists programs"
    )
    return Finding("vram", "warn", found, f"A run has only what is free: close what else uses the GPU. {where}")


def _spill(held: Sequence[str]) -> Finding:
    """Fills the card, so only where Windows may spill, and only when nobody else can be using it.

    From a container the programs of the host aren't visible; the memory that they hold is.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    if not environment.is_wsl():
        return Finding("spill", "skip", "only Windows moves GPU memory to the PC's")
    if held or free < 0.9 * total:
        found = f"not tried while {(total - free) / _GIB:.1f} GiB are in use: it would take what is free from a run"
        return Finding("spill", "skip", found)
    return spill.verdict(spill.measure())


def bf16() -> Finding:
    """A matrix product in bfloat16 against one in float32."""
    import torch

    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Finding(
            "bf16", "warn", "not supported by this GPU", "Set model.dtype: float32, or use an RTX 30 or newer"
        )
    torch.manual_seed(0)
    a, b = torch.randn(2, 256, 256, device="cuda")
    return _compared("bf16", "matrix product", [(a.bfloat16() @ b.bfloat16(), a @ b)], tolerance=0.02)


def nf4(device: str = "cuda") -> Finding:
    """One 4-bit layer of QLoRA, forward and backward, against float32."""
    import bitsandbytes
    import torch

    torch.manual_seed(0)
    inputs = torch.randn(64, 256, device=device, requires_grad=True)
    weight = torch.randn(128, 256) / 16
    layer = bitsandbytes.nn.Linear4bit(256, 128, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    outputs = layer.to(device)(inputs)
    gradient = torch.randn_like(outputs)
    outputs.backward(gradient)
    weight = weight.to(device)
    pairs = [(outputs, inputs @ weight.T), (inputs.grad, gradient @ weight)]
    # 4 bits leave about 0.1 for normally distributed weights; another layout of them leaves about 1.4.
    return _compared("nf4", "forward and backward", pairs, tolerance=0.2)


def triton(device: str = "cuda") -> Finding:
    """Compiles a kernel, as TRL's fused output head does, and runs it."""
    import torch

    from solotune.stages.doctor.triton_kernel import BLOCK, add_one

    values = torch.arange(1000, device=device, dtype=torch.float32)
    result = torch.empty_like(values)
    start = time.monotonic()
    add_one[(-(-len(values) // BLOCK),)](values, result, len(values), block=BLOCK)
    found = _compared("triton", "a kernel", [(result, values + 1)], tolerance=1e-6)
    return Finding("triton", found.status, f"{found.found}; ready in {time.monotonic() - start:.1f} s", found.fix)


def _compared(name: str, what: str, pairs: Sequence[tuple[Any, Any]], tolerance: float) -> Finding:
    """Results against what they should be; the error is relative, in the 2-norm."""
    errors = [float((got.detach().float() - right.detach()).norm() / right.detach().norm()) for got, right in pairs]
    found = f"{what}: relative error {', '.join(f'{e:.2g}' for e in errors)}"
    if all(error <= tolerance for error in errors):  # false for NaN too
        return Finding(name, "ok", found)
    fix = f"At most {tolerance} is sound: what is trained here would be wrong. Update NVIDIA's driver; then report it"
    return Finding(name, "FAIL", found, fix)
