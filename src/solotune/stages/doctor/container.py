"""What only a container has: the image it was started from, its user, its mounts, no network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from solotune.artifacts.files import sha256_file
from solotune.stages.doctor.finding import Finding, checked

_LOCK = "SOLOTUNE_IMAGE_LOCK"
"""sha256 of uv.lock when the image was built; every image of ours has the variable."""


def inside() -> bool:
    """Whether this runs in the project's image."""
    return _LOCK in os.environ


def findings() -> Iterable[Finding]:
    """All checks of this group; each is skipped outside."""
    checks = {"image": image, "user": user, "raw-data": raw_data, "network": network}
    for name, check in checks.items():
        yield checked(name, check) if inside() else Finding(name, "skip", "not in the container")


def image(lock: Path = Path("uv.lock")) -> Finding:
    """Whether the image holds what this checkout's uv.lock says."""
    built = os.environ[_LOCK]
    if not built:
        return Finding(
            "image",
            "warn",
            "it doesn't say which uv.lock it was built from",
            "Build it with `invoke build`, which does",
        )
    if not lock.is_file():
        return Finding("image", "FAIL", "no uv.lock in this folder", "Run it in the root of the repository")
    here = sha256_file(lock)
    if here != built:
        return Finding(
            "image",
            "FAIL",
            f"built from another uv.lock ({built[:12]}) than this one ({here[:12]})",
            "Its libraries aren't the locked ones: `invoke build`",
        )
    revision = os.environ.get("SOLOTUNE_IMAGE_REVISION") or "an unknown commit"
    return Finding("image", "ok", f"built from this uv.lock ({here[:12]}), at {revision[:12]}")


def user() -> Finding:
    """Root's files in runs/ can't be deleted by their owner."""
    if os.geteuid() == 0:
        return Finding(
            "user",
            "warn",
            "root",
            "What it writes belongs to root: start it with `invoke TASK`, as a user that isn't root",
        )
    return Finding("user", "ok", f"uid {os.geteuid()}, not root")


def raw_data(folder: Path = Path("data/raw")) -> Finding:
    """Raw rows are never written: the attempt has to be refused."""
    if not folder.is_dir():
        return Finding("raw-data", "warn", f"no {folder}/", "Stages find no rows: start it with `invoke TASK`")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("raw-data", "ok", f"{folder}/ can't be written ({error.strerror})")
    return Finding(
        "raw-data",
        "warn",
        f"{folder}/ can be written",
        "Stages mount it read-only, so that nothing harms your rows: start them with `invoke TASK`",
    )


def network(routes: Path = Path("/proc/net/route"), routes6: Path = Path("/proc/net/ipv6_route")) -> Finding:
    """No stage but fetch has a network."""
    # The first line of `route` names its columns; destination 0 is the way to everywhere else.
    default = any(line.split()[1] == "00000000" for line in _lines(routes)[1:])
    default6 = any(line.split()[1] == "00" and line.split()[-1] != "lo" for line in _lines(routes6))
    if default or default6:
        return Finding(
            "network",
            "warn",
            "there is a way out",
            "Only fetch needs one: start stages with `invoke TASK` (network_mode: none)",
        )
    return Finding("network", "ok", "none, as it should be; fetch has its own")


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
