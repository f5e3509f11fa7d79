"""A folder of runs."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def runs(workspace: Path) -> Path:
    """runs/ of an empty repository, which is the current folder."""
    path = Path("runs")
    path.mkdir()
    return path
