"""axe-core from npm: one version, known by its sha512, kept between runs of the tests."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.browser.chromium import Page

VERSION = "4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
_SECONDS = 60


def source(folder: Path) -> str:
    """The script; skips the test where it can't be had.

    Args:
        folder: where the package is kept.
    """
    package = folder / f"axe-core-{VERSION}.tgz"
    if not package.exists():
        _fetch(folder)
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    assert found == SHA512, f"{package} isn't axe-core {VERSION}"
    with tarfile.open(package) as tar:
        script = tar.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()


def _fetch(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to fetch axe-core with: apt-get install npm")
    command = [npm, "pack", f"axe-core@{VERSION}", "--pack-destination", folder, "--silent"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip("npm didn't bring axe-core in a minute")
    if done.returncode:
        pytest.skip(f"npm can't bring axe-core: {done.stderr.strip()[-200:]}")


def faults(page: Page, script: str) -> list[str]:
    """What axe finds to be serious or critical in the page as it is, and where."""
    page.value(f"{script}; true")
    found = page.value("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {node['target']} {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]
