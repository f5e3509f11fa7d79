"""The image: built for the user who calls, and refused when it isn't this checkout's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping

from host import client
from host.client import ROOT

IMAGE = os.environ.get("SOLOTUNE_IMAGE_TAG", "solotune:latest")
WRITTEN = ("runs", "data/splits", "data/hub", "models")
"""Folders that are mounted. Docker would make a missing one as root, and compose.yaml tells it to refuse."""
SETTINGS = ".env"
"""What Compose reads by itself: so that commands typed by hand, editors and `invoke` mean the same containers."""
ENVIRONMENT_FILES = ("docker/Dockerfile", "docker/install-os.sh", "docker/solotune", "docker/uv.txt", "uv.lock")

_LOCAL = "`scripts/local.sh TASK` needs neither Docker nor a GPU"


class Refused(Exception):
    """Nothing was started; the text says why and what to do."""


def build(base_image: str = "", apt_snapshot: str | None = None, *, no_cache: bool = False, dry: bool = False) -> int:
    """Builds the image for the user who calls; returns Docker's exit code.

    Args:
        base_image: instead of the Dockerfile's, e.g. one of a mirror.
        apt_snapshot: an Ubuntu snapshot id instead of the Dockerfile's; empty takes the archive of today.
        no_cache: build every layer anew.
        dry: print the command instead.
    """
    uid, gid = user()
    arguments = {
        "UID": uid,
        "GID": gid,
        "GIT_COMMIT": _git_commit(),
        "VERSION": _version(),
        "LOCK_SHA256": hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest(),
        "ENVIRONMENT_SHA256": environment_sha256(uid, gid),
        "BASE_DIGEST": (base_image or _default_base()).partition("@")[2],
    }
    if base_image:
        arguments["BASE_IMAGE"] = base_image
    if apt_snapshot is not None:
        arguments["APT_SNAPSHOT"] = apt_snapshot
    command = ["docker", "build", "--file", "docker/Dockerfile", "--tag", IMAGE]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if certificates := os.environ.get("EXTRA_CA_FILE"):
        command += ["--secret", f"id=extra_ca,src={certificates}"]
    command += [*(["--no-cache"] if no_cache else []), "."]
    environment = {"DOCKER_BUILDKIT": "1"}
    if dry:
        client.print_command(command, environment)
        return 0
    _require_docker()
    if sys.stderr.isatty():  # BuildKit draws its progress there; through a pipe it would print a line for each line
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        client.explain(_why_no_build() if code else "", code)
    else:
        code = client.run_explained(command, environment)
    if code == 0:
        require_image()
    return code


def prepare_for_editor() -> int:
    """What an editor's container needs beforehand: folders, settings, the image; returns an exit code."""
    try:
        require_image()
    except Refused as refused:
        print(refused, file=sys.stderr)
        if "invoke build" not in str(refused):
            return 2
        return build()
    return 0


def require_image() -> str:
    """The image's id; makes the folders that will be mounted, and the settings that Compose reads."""
    _require_docker()
    uid, gid = user()
    label = '{{.Id}} {{index .Config.Labels "solotune.environment.sha256"}}'
    asked = subprocess.run(
        ["docker", "image", "inspect", "--format", label, IMAGE], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        if "no such image" in asked.stderr.lower():
            raise Refused(f"there is no image {IMAGE} yet: `invoke build` makes it; {_LOCAL}")
        print(asked.stderr.strip(), file=sys.stderr)
        client.explain(asked.stderr, asked.returncode)
        raise Refused(f"the Docker engine doesn't answer; {_LOCAL}")
    image, _, environment = asked.stdout.strip().partition(" ")
    if environment != environment_sha256(uid, gid):
        raise Refused(
            f"{IMAGE} was built for another user, or from another uv.lock or Dockerfile than this checkout's: "
            "`invoke build` brings it up to date"
        )
    for folder in WRITTEN:
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
    _write_settings(
        {"COMPOSE_PROJECT_NAME": project(), "SOLOTUNE_UID": uid, "SOLOTUNE_GID": gid, "SOLOTUNE_IMAGE": image}
    )
    return image


def user() -> tuple[str, str]:
    """Who the container's processes are: the user who calls, so that files in runs/ are theirs; never root."""
    uid = os.environ.get("SOLOTUNE_UID") or str(os.getuid())
    gid = os.environ.get("SOLOTUNE_GID") or (uid if os.environ.get("SOLOTUNE_UID") else str(os.getgid()))
    if uid == "0" or not (uid + gid).isdigit():
        raise Refused(
            "nothing in the container runs as root, and root called: use your own account (`su - NAME`; with WSL: "
            "`wsl -u NAME`), or say whose files they shall be with SOLOTUNE_UID and SOLOTUNE_GID"
        )
    return uid, gid


def project() -> str:
    """Compose's name for this checkout of this user: `docker compose stop` in another one must not stop it."""
    return "solotune-" + hashlib.sha256(f"{user()[0]}:{ROOT}".encode()).hexdigest()[:8]


def environment_sha256(uid: str, gid: str) -> str:
    """What an image depends on but the source, which is mounted over the image's own."""
    digest = hashlib.sha256(f"{uid}:{gid}".encode())
    for name in ENVIRONMENT_FILES:
        digest.update((ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


def _require_docker() -> None:
    if client.output(["docker", "--version"]) is None:
        raise Refused(f"there is no `docker` command here. `scripts/setup_wsl.sh` says how to get it; {_LOCAL}")


def _write_settings(settings: Mapping[str, str]) -> None:
    """Puts our lines into .env and leaves the others as they are."""
    path = ROOT / SETTINGS
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = [line for line in old.splitlines() if line.partition("=")[0].strip() not in settings]
    text = "".join(f"{line}\n" for line in [*kept, *(f"{name}={value}" for name, value in settings.items())])
    if text != old:
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)  # it may hold a token
        beside.replace(path)


def _why_no_build() -> str:
    """What a failed build has drawn can't be read; the two commonest causes can be asked for."""
    if client.output(["docker", "buildx", "version"]) is None:
        return "the buildx component is missing"
    return subprocess.run(["docker", "info"], capture_output=True, text=True, check=False).stderr


def _git_commit() -> str:
    """The commit, with a mark when files differ from it; empty where there is no git."""
    commit = client.output(["git", "rev-parse", "HEAD"])
    if not commit:
        return ""
    return commit + ("-dirty" if client.output(["git", "status", "--porcelain", "--untracked-files=no"]) else "")


def _version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.partition('\nversion = "')[2].partition('"')[0]


def _default_base() -> str:
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    return text.partition("\nARG BASE_IMAGE=")[2].partition("\n")[0]
