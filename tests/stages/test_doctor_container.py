"""What doctor says of the container: its image, user, mounts and network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from solotune.artifacts.files import sha256_file
from solotune.stages.doctor import container


@pytest.fixture(autouse=True)
def inside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an image that was built from this folder's uv.lock."""
    Path("uv.lock").write_text("version = 1\n")
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", sha256_file(Path("uv.lock")))
    monkeypatch.delenv("SOLOTUNE_IMAGE_REVISION", raising=False)


def test_outside_everything_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOLOTUNE_IMAGE_LOCK")
    assert not container.inside()
    findings = list(container.findings())
    assert [f.name for f in findings] == ["image", "user", "raw-data", "network"]
    assert {f.status for f in findings} == {"skip"}


def test_inside_nothing_is_skipped() -> None:
    assert container.inside()
    assert "skip" not in {f.status for f in container.findings()}


def test_an_image_of_this_lock_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert container.image().status == "ok"
    monkeypatch.setenv("SOLOTUNE_IMAGE_REVISION", "0123456789abcdef")
    assert container.image().found.endswith("at 0123456789ab")


def test_an_image_of_another_lock_fails() -> None:
    Path("uv.lock").write_text("version = 2\n")
    finding = container.image()
    assert finding.status == "FAIL"
    assert "`invoke build`" in finding.fix


def test_an_image_that_doesnt_say_its_lock_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", "")
    assert container.inside()
    finding = container.image()
    assert finding.status == "warn"
    assert "`invoke build`" in finding.fix


def test_no_lock_fails() -> None:
    Path("uv.lock").unlink()
    assert container.image().status == "FAIL"


@pytest.mark.parametrize(("uid", "status"), [(0, "warn"), (1000, "ok")])
def test_root_warns(uid: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert container.user().status == status


def test_raw_data_that_can_be_written_warns_and_nothing_is_left_there() -> None:
    Path("data/raw").mkdir(parents=True)
    finding = container.raw_data()
    assert finding.status == "warn"
    assert "read-only" in finding.fix
    assert list(Path("data/raw").iterdir()) == []


def test_raw_data_that_refuses_a_file_is_fine() -> None:
    assert container.raw_data(Path("/proc/self")).status == "ok"  # refuses root as well


def test_no_raw_data_warns() -> None:
    assert container.raw_data().status == "warn"


HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
LOCAL = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
DEFAULT = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
ZERO = "0" * 32
LOOP6 = f"{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo\n"
DEFAULT6 = f"{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n"


@pytest.mark.parametrize(
    ("route", "route6", "status"),
    [
        (HEADER, LOOP6, "ok"),
        (HEADER + LOCAL, "", "ok"),
        (HEADER + DEFAULT, "", "warn"),
        (HEADER, LOOP6 + DEFAULT6, "warn"),
        (None, None, "ok"),
    ],
)
def test_a_way_out_warns(workspace: Path, route: str | None, route6: str | None, status: str) -> None:
    for name, text in (("route", route), ("route6", route6)):
        if text is not None:
            Path(name).write_text(text)
    assert container.network(Path("route"), Path("route6")).status == status


def test_this_machines_routes_can_be_read() -> None:
    assert container.network().status in ("ok", "warn")
