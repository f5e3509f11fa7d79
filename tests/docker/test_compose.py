"""compose.yaml, as Compose understands it, and what a container of it may do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.docker.conftest import CERTIFICATES, Checkout

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


def rendered(checkout: Checkout, *options: str, **environment: str) -> dict[str, Any]:
    done = checkout.user.run(
        "docker", "compose", *options, "config", "--format", "json", cwd=checkout.root, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOOPBACK = {"tensorboard", "serve-cpu", "serve-gpu"}
STAGES = {"cpu", "gpu", "fetch", *LOOPBACK}
EDITORS = {"editor-cpu", "editor-gpu"}


def test_every_service_is_shut_in(checkout: Checkout) -> None:
    services = rendered(checkout)["services"]
    assert set(services) == STAGES | EDITORS
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["init"] is True, name
        assert service["user"] == f"{checkout.user.uid}:{checkout.user.gid}", name
        assert service["pull_policy"] == "never", name
        assert not service.get("privileged"), name
        assert not service.get("ipc"), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert service.get("read_only", False) is (name in STAGES), name
    assert {name for name, s in services.items() if s.get("network_mode") == "none"} == {"cpu", "gpu"}
    assert {name for name, s in services.items() if s.get("network_mode") == "bridge"} == {"fetch", *EDITORS}
    for name in LOOPBACK:
        assert set(services[name]["networks"]) == {"loopback"}, name
        assert services[name]["ports"], name


def test_what_each_service_may_write(checkout: Checkout) -> None:
    services = rendered(checkout)["services"]
    writable = {
        name: {v["target"] for v in service["volumes"] if not v.get("read_only")} for name, service in services.items()
    }
    editor = {"/app", "/app/data/splits", "/app/runs", "/app/models", "/cache"}
    assert writable == {
        "cpu": {"/app/data/splits", "/app/runs", "/cache"},
        "gpu": {"/app/data/splits", "/app/runs", "/cache"},
        "fetch": {"/app/data/hub", "/app/models", "/cache"},
        "tensorboard": set(),
        "serve-cpu": set(),
        "serve-gpu": set(),
        "editor-cpu": editor,
        "editor-gpu": editor,
    }
    assert all(
        v.get("read_only") for s in services.values() for v in s["volumes"] if v["target"].startswith("/app/data/raw")
    )


def test_what_has_a_network_sees_no_rows_and_no_settings(checkout: Checkout) -> None:
    services = rendered(checkout)["services"]
    seen = {name: {v["target"] for v in services[name]["volumes"]} for name in ("fetch", *LOOPBACK)}
    assert seen == {
        "fetch": {"/app/src", "/app/configs", "/app/data/hub", "/app/models", "/cache"},
        **{name: {"/app/src", "/app/runs"} for name in LOOPBACK},
    }
    caches = {name: [v["source"] for v in s["volumes"] if v["target"] == "/cache"] for name, s in services.items()}
    assert not set(caches["cpu"] + caches["gpu"]) & set(caches["fetch"] + caches["editor-gpu"])


def test_only_fetch_gets_the_token(checkout: Checkout) -> None:
    services = rendered(checkout, HF_TOKEN="hf_canary")["services"]
    assert [name for name, service in services.items() if "hf_canary" in json.dumps(service)] == ["fetch"]


def test_the_gpu_is_reserved_in_the_form_that_docker_desktop_knows(checkout: Checkout) -> None:
    services = rendered(checkout)["services"]
    for name in ("gpu", "serve-gpu"):
        devices = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}], name


def test_a_private_ca_reaches_fetch(checkout: Checkout) -> None:
    files = ("--file", "compose.yaml", "--file", "compose.ca.yaml")
    fetch = rendered(checkout, *files, EXTRA_CA_FILE=CERTIFICATES)["services"]["fetch"]
    assert fetch["environment"]["SSL_CERT_FILE"] == "/run/extra_ca.pem"
    assert any(v["source"] == CERTIFICATES and v["read_only"] for v in fetch["volumes"])


OUTSIDE = "import socket; socket.create_connection(('pypi.org', 443), timeout=5)"


def test_only_fetch_reaches_the_internet(checkout: Checkout) -> None:
    assert checkout.run("python", "-c", OUTSIDE, service="fetch").returncode == 0, "no network here: nothing is shown"
    for service in ("cpu", "tensorboard", "serve-cpu"):
        assert checkout.run("python", "-c", OUTSIDE, service=service).returncode != 0, service


def test_a_stage_has_no_network_no_capability_no_root(checkout: Checkout) -> None:
    probe = (
        "import os, socket\n"
        "print('uid', os.getuid(), 'gid', os.getgid())\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')])\n"
        "print(open('/proc/self/status').read().split('NoNewPrivs:')[1].split()[0])\n"
        "print(sorted(name for _, name in socket.if_nameindex()))\n"
        "print(open('/proc/1/comm').read().strip())\n"
    )
    lines = checkout.run("python", "-c", probe).stdout.splitlines()
    assert lines[0] == f"uid {checkout.user.uid} gid {checkout.user.gid}"
    assert set(json.loads(lines[1].replace("'", '"'))) == {"0" * 16}
    assert lines[2] == "1"
    assert lines[3] == "['lo']"
    assert lines[4] in {"docker-init", "tini"}


@pytest.mark.parametrize(
    "path", ["data/raw/x", "data/raw/demo/x", "src/x", "configs/x", "models/x", "x", "/venv/x", "/etc/x"]
)
def test_a_stage_cannot_write(checkout: Checkout, path: str) -> None:
    done = checkout.run("touch", path)
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("path", ["runs/x", "data/splits/x", "/cache/x", "/tmp/x", "/dev/shm/x"])
def test_a_stage_can_write(checkout: Checkout, path: str) -> None:
    done = checkout.run("sh", "-c", f"touch {path} && rm {path}")
    assert done.returncode == 0, done.stderr


def test_shared_memory_is_large_enough_for_data_loaders(checkout: Checkout) -> None:
    done = checkout.run("df", "--output=size", "--block-size=G", "/dev/shm")
    assert done.stdout.split()[-1] == "8G"


def test_a_folder_that_is_missing_is_refused_not_made_by_root(checkout: Checkout) -> None:
    (checkout.root / "models").rename(checkout.root / "models.away")
    try:
        done = checkout.run("true")
        assert done.returncode != 0
        assert "bind source path does not exist" in done.stderr
        assert not (checkout.root / "models").exists()
    finally:
        (checkout.root / "models.away").rename(checkout.root / "models")
