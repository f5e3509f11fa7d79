"""A run that has finished, for stages that come after training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.tiny import make_experiment

from solotune import cli


@pytest.fixture(scope="session")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository root with one run on it: `finished_run` is a copy, to be written in."""
    root = tmp_path_factory.mktemp("trained")
    make_experiment(root, tiny_model)
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(root)
    try:
        for command in ("fetch", "prepare", "train"):
            assert cli.main([command, "--config", "small.yaml", *_FEW_STEPS]) == 0
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
    return root


_FEW_STEPS = ("--set", "training.max_steps=2", "--set", "training.eval_steps=0")


@pytest.fixture
def finished_run(trained: Path, workspace: Path) -> Path:
    """The folder of a trained run, below the current folder."""
    shutil.copytree(trained, workspace, dirs_exist_ok=True)
    (run,) = Path("runs").glob("2*")
    return run
