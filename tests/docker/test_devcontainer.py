"""The editors' way in, with the command-line program that stands behind VS Code's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.docker.conftest import Checkout, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

CLI = "@devcontainers/cli@0.89.0"


@pytest.fixture(scope="module")
def devcontainer(shared: Path) -> str:
    if shutil.which("npm") is None:
        pytest.skip("no npm, which brings the devcontainer program")
    subprocess.run(["npm", "install", "--silent", "--prefix", shared, CLI], check=True, capture_output=True)
    return str(shared / "node_modules" / ".bin" / "devcontainer")


def test_up_and_the_tests_pass_inside(checkout: Checkout, devcontainer: str) -> None:
    given = [
        "--workspace-folder",
        str(checkout.root),
        "--config",
        str(checkout.root / ".devcontainer/cpu/devcontainer.json"),
    ]
    up = checkout.user.run(devcontainer, "up", *given, cwd=checkout.root)
    assert up.returncode == 0, up.stderr[-3000:]
    answer = json.loads(up.stdout.splitlines()[-1])
    try:
        assert answer["outcome"] == "success"
        assert answer["remoteUser"] == "trainer"
        assert answer["remoteWorkspaceFolder"] == "/app"

        def inside(*command: str) -> subprocess.CompletedProcess[str]:
            return checkout.user.run(devcontainer, "exec", *given, *command, cwd=checkout.root)

        assert inside("id", "-u").stdout.strip() == str(checkout.user.uid)
        assert inside("git", "status", "--porcelain").returncode == 0
        assert inside("sh", "-c", "touch src/x && rm src/x").returncode == 0, "an editor edits"
        assert inside("touch", "data/raw/x").returncode != 0, "raw rows are never written"
        tests = inside("invoke", "test", "-k", "config or metrics or cli")
        print(tests.stdout[-500:])
        assert tests.returncode == 0, tests.stdout[-3000:] + tests.stderr[-2000:]
        assert "passed" in tests.stdout
        linted = inside("invoke", "lint")
        assert linted.returncode == 0, linted.stdout[-3000:] + linted.stderr[-2000:]
    finally:
        docker("rm", "--force", answer["containerId"])
    assert Path(checkout.root / ".env").read_text().count("SOLOTUNE_UID") == 1
    (checkout.root / ".env").unlink()
