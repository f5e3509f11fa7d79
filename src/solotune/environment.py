"""The machine and the code that a run was made with, read without torch."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from solotune.artifacts.files import sha256_file, sha256_text

LIBRARIES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
    "trl",
)
_SECONDS = 10


def prepare_process(*, device: str, online: bool = False) -> None:
    """Sets what libraries read from the environment; call it before the first of them is imported.

    Nothing asks the hub unless `online`; cuBLAS gets the work space that makes it deterministic; one GPU is visible,
    and none at all when the config says `cpu`.
    """
    settings = {
        "HF_HUB_OFFLINE": "0" if online else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "0" if online else "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "DATASETS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as nvidia-smi counts; CUDA by itself counts the fastest first
    }
    if not sys.stdout.isatty():
        settings["TQDM_DISABLE"] = "1"  # bars are for terminals; a log would get a line for each of their moves
    os.environ.update(settings)
    if is_wsl():
        _drop_expandable_segments()
    _quiet_upstream()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif visible is None or "," in visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = (visible or "0").split(",")[0]


def _drop_expandable_segments() -> None:
    """They fail on WSL with drivers before 616.92 (pytorch/pytorch#192330); the rest of the setting stays."""
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        entries = [entry for entry in os.environ.get(name, "").split(",") if entry]
        kept = [entry for entry in entries if not entry.strip().startswith("expandable_segments")]
        if kept != entries:
            os.environ[name] = ",".join(kept)


def _quiet_upstream() -> None:
    """Hides what libraries tell their developers and a user can't act on; ours are printed, not raised."""
    for library in ("transformers", "trl", "peft", "torch", "bitsandbytes", "accelerate", "datasets"):
        warnings.filterwarnings("ignore", module=rf"{library}\b")
    # Asks, at every import on some processors, for an optional package that would contact the hub.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def describe(root: Path) -> dict[str, Any]:
    """What made a run, for its manifest. An allow-list: no other environment variable is ever written down."""
    return {
        "git_commit": _git(root, "rev-parse", "HEAD"),
        "git_diff_sha256": _diff_hash(root),
        "source_sha256": source_sha256(Path(__file__).parent),
        "lock_sha256": sha256_file(root / "uv.lock") if (root / "uv.lock").is_file() else None,
        "image": _image(),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "platform": platform.platform(),
        "wsl": is_wsl(),
        "cpu_count": os.cpu_count(),
        "processor": _processor(),
        "gpu": own_gpu(),
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of two descriptions isn't the same, in words; what can't change a bit of the result is left out.

    Args:
        then: `describe` of a run, as its manifest has it.
        now: the same of today.
    """
    ours, theirs = _flat(then), _flat(now)
    keys = [key for key in ours.keys() | theirs.keys() if not key.startswith(_WITHOUT_EFFECT)]
    return [
        f"{key}: {_shown(ours.get(key))} -> {_shown(theirs.get(key))}"
        for key in sorted(keys)
        if ours.get(key) != theirs.get(key)
    ]


_WITHOUT_EFFECT = ("platform", "cpu_count", "image", "git_", "python")
"""The code itself is hashed (source_sha256), and the lock; a commit says the same once more."""


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, list):
        value = {str(i): inner for i, inner in enumerate(value)}
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{path}.{key}".strip(".")).items()}


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{40,64}", text) else text


def _processor() -> str:
    """The processor's name: libraries choose their kernels by it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def source_sha256(package: Path) -> str:
    """One hash over the Python files of a folder; tells the code where there is no git, as in an image.

    Of lines `sha256  path`, sorted by path, as sha256sum writes them.
    """
    paths = sorted(p.relative_to(package).as_posix() for p in package.rglob("*.py"))
    return sha256_text("".join(f"{sha256_file(package / path)}  {path}\n" for path in paths))


def _image() -> dict[str, str | None] | None:
    """The image that this runs in: its id, the lock and the commit that it was built from; None outside."""
    keys = {"id": "SOLOTUNE_IMAGE", "lock_sha256": "SOLOTUNE_IMAGE_LOCK", "revision": "SOLOTUNE_IMAGE_REVISION"}
    found = {key: os.environ.get(name) or None for key, name in keys.items()}
    return found if any(found.values()) else None


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide what a run computes."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def is_wsl() -> bool:
    """Whether the kernel is WSL's. In a container on WSL2 the WSL_* variables are not set, the kernel's name is."""
    return "microsoft" in platform.release().lower()


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each GPU that nvidia-smi lists; empty without one."""
    rows = nvidia_smi("--query-gpu=name,memory.total,driver_version")
    return [{"name": r[0], "memory": r[1], "driver": r[2]} for r in rows if len(r) == 3]


def own_gpu() -> list[dict[str, str]]:
    """The one that `prepare_process` made visible, or none; all of them where its name isn't a number."""
    found, visible = gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":
        return []
    return [found[int(visible)]] if visible and visible.isdecimal() and int(visible) < len(found) else found


def nvidia_smi(query: str) -> list[list[str]]:
    """What nvidia-smi answers, a list of cells for each line; empty without it."""
    wsl_path = "/usr/lib/wsl/lib/nvidia-smi"  # sudo and some shells drop this folder from PATH
    tool = shutil.which("nvidia-smi") or (wsl_path if Path(wsl_path).exists() else None)
    if tool is None:
        return []
    text = _output([tool, query, "--format=csv,noheader"])
    return [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines()]


def _git(root: Path, *arguments: str) -> str | None:
    text = _output(["git", "-C", str(root), *arguments])
    return text.strip() if text is not None else None


def _diff_hash(root: Path) -> str | None:
    # The hash, not the text: a diff may hold what its owner doesn't want in a file that is passed on.
    diff = _git(root, "diff", "HEAD")
    return sha256_text(diff) if diff else None


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
