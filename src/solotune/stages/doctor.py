"""doctor: can this machine do what a config asks for? Each finding with its fix."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from solotune import environment
from solotune.console import say
from solotune.errors import MachineError

_GIB = 2**30
_DRIVER = 580
"""Lowest NVIDIA driver for CUDA 13, which torch is built with."""


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do about it."""

    level: Literal["ok", "warn", "FAIL"]
    name: str
    found: str
    fix: str = ""


def run() -> None:
    """Prints every finding.

    Raises:
        MachineError: at least one of them would make a run fail.
    """
    findings = list(_findings())
    for finding in findings:
        say(f"{finding.level:<4}  {finding.name}: {finding.found}" + (f". {finding.fix}" if finding.fix else ""))
    failed = [f.name for f in findings if f.level == "FAIL"]
    if failed:
        raise _Failed(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}", "See the lines above")


class _Failed(MachineError):
    exit_code = 1


def _findings() -> Iterable[Finding]:
    yield _python()
    yield _locked_versions()
    yield _disk()
    yield _gpu()


def _python() -> Finding:
    version = sys.version.split()[0]
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        return Finding("FAIL", "python", version, "Use 3.11 to 3.14")
    return Finding("ok", "python", version)


def _locked_versions() -> Finding:
    lock = Path("uv.lock")
    if not lock.is_file():
        return Finding("FAIL", "lock", "no uv.lock in this folder", "Run it in the root of the repository")
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        locked.setdefault(package["name"], set()).add(package["version"])
    installed = environment.library_versions()
    wrong = [
        f"{n} {v} instead of {'/'.join(sorted(locked[n]))}" for n, v in installed.items() if v not in locked.get(n, v)
    ]
    missing = [n for n in environment.LIBRARIES if n not in installed and n in locked]
    if wrong or missing:
        return Finding(
            "FAIL",
            "lock",
            "; ".join([*wrong, *(f"{n} is missing" for n in missing)]),
            "Run `scripts/local.sh doctor`",
        )
    return Finding("ok", "lock", f"{len(installed)} libraries as locked (torch {importlib.metadata.version('torch')})")


def _disk() -> Finding:
    free = shutil.disk_usage(Path()).free / _GIB
    if free < 5:
        return Finding("FAIL", "disk", f"{free:.1f} GiB free", "Free at least 5 GiB, 40 for an 8B model")
    if free < 40:
        return Finding("warn", "disk", f"{free:.0f} GiB free", "An 8B model, its run and its export take up to 40 GiB")
    return Finding("ok", "disk", f"{free:.0f} GiB free")


def _gpu() -> Finding:
    found = environment.gpus()
    if not found:
        return Finding(
            "warn",
            "gpu",
            "nvidia-smi lists none",
            "Configs with device: cuda will stop; device: cpu ones (smoke) run",
        )
    card = found[0]
    text = f"{card['name']}, {card['memory']}, driver {card['driver']}"
    if int(card["driver"].split(".")[0]) < _DRIVER:
        return Finding(
            "FAIL",
            "gpu",
            text,
            f"CUDA 13 needs driver {_DRIVER} or newer; on Windows update the Windows driver",
        )
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "FAIL", "gpu", f"{text}, but torch {torch.__version__} can't use it", "Run `scripts/setup_wsl.sh`"
        )
    if not torch.cuda.is_bf16_supported():
        return Finding("warn", "gpu", f"{text}, without bfloat16", "Set model.dtype: float32, or use a newer card")
    return Finding("ok", "gpu", text)
