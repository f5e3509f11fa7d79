"""The editors' way in, with the command-line program that stands behind VS Code's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.docker.conftest import IMAGE, Checkout, docker

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

        image = docker("image", "inspect", "--format", "{{.Id}}", IMAGE).stdout.strip()
        assert inside("printenv", "SOLOTUNE_IMAGE").stdout.strip() == image, "runs of the editor name it too"
        assert inside("id", "-u").stdout.strip() == str(checkout.user.uid)
        assert inside("git", "status", "--porcelain").returncode == 0
        assert inside("sh", "-c", "touch src/x && rm src/x").returncode == 0, "an editor edits"
        assert inside("touch", "data/raw/x").returncode != 0, "raw rows are never written"
        tests = inside("invoke", "test")
        print(tests.stdout[-500:])
        assert tests.returncode == 0, tests.stdout[-3000:] + tests.stderr[-2000:]
        assert "passed" in tests.stdout
        linted = inside("invoke", "lint")
        assert linted.returncode == 0, linted.stdout[-3000:] + linted.stderr[-2000:]
    finally:
        docker("rm", "--force", answer["containerId"])


def test_the_definition_with_a_gpu_reads_and_renders(checkout: Checkout, devcontainer: str) -> None:
    file = checkout.root / ".devcontainer" / "devcontainer.json"
    given = ["--workspace-folder", str(checkout.root), "--config", str(file)]
    read = checkout.user.run(devcontainer, "read-configuration", *given, cwd=checkout.root)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout)["configuration"]["service"] == "editor-gpu"
    up = checkout.user.run("docker", "compose", "up", "--detach", "editor-gpu", cwd=checkout.root)
    docker("rm", "--force", f"{checkout.project}-editor-gpu-1")
    if "nvidia" not in docker("info", "--format", "{{json .Runtimes}}").stdout:
        assert up.returncode != 0
        assert "could not select device driver" in up.stderr
