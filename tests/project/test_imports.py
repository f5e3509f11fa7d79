"""What a fresh process loads: the torch-free part stays torch-free at run time too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import solotune

HEAVY = {"torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate"}
SOURCE = Path(solotune.__file__).parent


@pytest.mark.parametrize(
    "module",
    ["solotune.cli", "solotune.config.load", "solotune.stages.prepare", "solotune.modeling.chat", "solotune.metrics"],
)
def test_the_torch_free_part_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


def test_every_folder_of_the_package_says_what_it_is_for() -> None:
    packages = sorted(SOURCE.rglob("__init__.py"))
    assert len(packages) > 6
    for package in packages:
        assert package.read_text(encoding="utf-8").startswith('"""'), package
