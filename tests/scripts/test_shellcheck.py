"""Every shell script of the repository passes shellcheck."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path
    for pattern in (
        "*.sh",
        "scripts/**/*.sh",
        "docker/**/*.sh",
        ".devcontainer/**/*.sh",
        "benchmarks/**/*.sh",
        "docker/solotune",
        ".ci/*",
        "tests/wsl/*.*",
        "tests/wsl/machine/[mu]*/**/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
)


def test_there_are_scripts() -> None:
    assert {ROOT / "scripts" / "local.sh", ROOT / "scripts" / "setup_wsl.sh"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_passes_shellcheck(script: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    check = subprocess.run(
        ["shellcheck", script], check=False, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert check.returncode == 0, check.stdout + check.stderr
