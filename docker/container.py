"""What the host does with Docker: build the image, and run commands in it with its services of compose.yaml.

Imported by tasks.py on the host, and so made of the standard library alone and of Python 3.10.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
IMAGE = os.environ.get("SOLOTUNE_IMAGE_TAG", "solotune:latest")
WRITTEN = ("runs", "data/splits", "models")
"""Folders that are mounted. Docker would make a missing one as root, and compose.yaml tells it to refuse."""
ENVIRONMENT_FILES = ("docker/Dockerfile", "docker/install-os.sh", "docker/solotune", "docker/uv.txt", "uv.lock")

_LOCAL = "`scripts/local.sh TASK` needs neither Docker nor a GPU"
_COMPOSE = ["docker", "compose", "--progress", "quiet", "--file", "compose.yaml"]
_TAIL = 16_384


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
    uid, gid = _user()
    arguments = {
        "UID": uid,
        "GID": gid,
        "GIT_COMMIT": _git_commit(),
        "VERSION": _version(),
        "LOCK_SHA256": hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest(),
        "ENVIRONMENT_SHA256": _environment_sha256(uid, gid),
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
        _print_command(command, environment)
        return 0
    _require_docker()
    return _explained(command, environment)


def run(service: str, command: Sequence[str], *, network_ca: bool = False, dry: bool = False) -> int:
    """Runs a command in a container of its own, removed afterwards; returns its exit code."""
    name = f"solotune-{service}-{uuid.uuid4().hex[:8]}"
    compose = [*_compose(network_ca), "run", "--rm", "--name", name]
    compose += [*([] if _has_terminal() else ["--no-TTY"]), service, *command]
    if dry:
        _print_command(compose, _variables(None))
        return 0
    return _follow(compose, _variables(_require_image()), name)


def run_stage(service: str, command: Sequence[str], *, dry: bool = False) -> int:
    """Runs a stage as the service itself, one at a time; returns its exit code.

    `docker compose run` makes containers that `docker compose stop`, `ps` and `logs` don't see. A training is what
    these are for, so it becomes the service's own container: created with the stage's command, then attached to.
    """
    container = f"solotune-{service}-1"
    terminal = _has_terminal()
    stage = {
        "command": [word.replace("$", "$$") for word in command],  # compose interpolates $
        "container_name": container,
        "stdin_open": terminal,
        "tty": terminal,
    }
    override = json.dumps({"services": {service: stage}})
    create = [*_COMPOSE, "--file", "-", "create", "--force-recreate", service]
    attach = ["docker", "start", "--attach", *(["--interactive"] if terminal else []), container]
    if dry:
        print(f"echo {shlex.quote(override)} | ", end="")
        _print_command(create, _variables(None))
        _print_command(attach, {})
        _print_command(["docker", "rm", container], {})
        return 0
    variables = _variables(_require_image())
    if _output(["docker", "inspect", "--format", "{{.State.Running}}", container]) == "true":
        raise Refused(
            f"a stage is already running in the {service} service: `docker compose logs -f {service}` shows it, "
            f"`docker compose stop {service}` saves and stops it"
        )
    code = _explained(create, variables, override)
    if code == 0:
        code = _follow(attach, {}, container)
    _output(["docker", "rm", "--force", container])
    return code


# --- what is refused before anything starts


def _require_docker() -> None:
    if _output(["docker", "--version"]) is None:
        raise Refused(f"there is no `docker` command here. `scripts/setup_wsl.sh` says how to get it; {_LOCAL}")


def _require_image() -> str:
    """The image's id; makes the folders that will be mounted."""
    _require_docker()
    uid, gid = _user()
    label = '{{.Id}} {{index .Config.Labels "solotune.environment.sha256"}}'
    asked = subprocess.run(
        ["docker", "image", "inspect", "--format", label, IMAGE], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        if "no such image" in asked.stderr.lower():
            raise Refused(f"there is no image {IMAGE} yet: `invoke build` makes it; {_LOCAL}")
        print(asked.stderr.strip(), file=sys.stderr)
        _explain(asked.stderr, asked.returncode)
        raise Refused(f"the Docker engine doesn't answer; {_LOCAL}")
    image, _, environment = asked.stdout.strip().partition(" ")
    if environment != _environment_sha256(uid, gid):
        raise Refused(
            f"{IMAGE} was built for another user, or from another uv.lock or Dockerfile than this checkout's: "
            "`invoke build` brings it up to date"
        )
    for folder in WRITTEN:
        (ROOT / folder).mkdir(parents=True, exist_ok=True)
    return image


def _user() -> tuple[str, str]:
    """Who the container's processes are: the user who calls, so that files in runs/ are theirs; never root."""
    uid, gid = os.environ.get("SOLOTUNE_UID"), os.environ.get("SOLOTUNE_GID")
    if uid is None and os.getuid() == 0:
        raise Refused(
            "root called, and nothing in the container runs as root: use your own account (`su - NAME`; with WSL: "
            "`wsl -u NAME`), or say whose files they shall be with SOLOTUNE_UID and SOLOTUNE_GID"
        )
    return uid or str(os.getuid()), gid or uid or str(os.getgid())


def _environment_sha256(uid: str, gid: str) -> str:
    """What an image depends on but the source, which is mounted over the image's own."""
    digest = hashlib.sha256(f"{uid}:{gid}".encode())
    for name in ENVIRONMENT_FILES:
        digest.update((ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


# --- starting and following


def _compose(network_ca: bool) -> list[str]:
    """With EXTRA_CA_FILE set, what has a network trusts that bundle."""
    if network_ca and os.environ.get("EXTRA_CA_FILE"):
        return [*_COMPOSE, "--file", "compose.ca.yaml"]
    return [*_COMPOSE]


def _variables(image: str | None) -> dict[str, str]:
    uid, gid = _user()
    return {"SOLOTUNE_UID": uid, "SOLOTUNE_GID": gid, **({"SOLOTUNE_IMAGE": image} if image else {})}


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _follow(command: Sequence[str], variables: dict[str, str], container: str) -> int:
    """Runs Docker's client until the container has ended; what stops us is handed to the container.

    The client itself isn't asked to: on a signal it leaves, and the container goes on without anybody watching.
    On a terminal, Ctrl-C is a character that the client carries into the container. Elsewhere the client lives in a
    session of its own, which the terminal's Ctrl-C doesn't reach.
    """
    process = _start(command, variables, apart=not _has_terminal())

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        name = "INT" if number == signal.SIGINT else "TERM"
        subprocess.Popen(
            ["docker", "kill", "--signal", name, container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        return _wait(process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explained(command: Sequence[str], variables: dict[str, str], stdin: str | None = None) -> int:
    return _wait(_start(command, variables, stdin=stdin))


def _start(
    command: Sequence[str], variables: dict[str, str], *, stdin: str | None = None, apart: bool = False
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE if stdin is not None else None,
        stderr=subprocess.PIPE,
        start_new_session=apart,
    )
    if stdin is not None:
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
    return process


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Passes the error stream on as it comes, and explains its end when the command failed."""
    assert process.stderr is not None
    tail = bytearray()
    reader = threading.Thread(target=_pass_on, args=(process.stderr, tail), daemon=True)
    reader.start()
    code = process.wait()
    reader.join(timeout=5)
    process.stderr.close()
    code = code if code >= 0 else 128 - code
    if code not in (0, 130, 143):
        _explain(tail.decode(errors="replace"), code)
    return code


def _pass_on(stream: IO[bytes], tail: bytearray) -> None:
    while chunk := os.read(stream.fileno(), 65_536):
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        tail += chunk
        del tail[:-_TAIL]


def _explain(text: str, code: int) -> None:
    sys.path.insert(0, str(ROOT / "src"))
    try:
        from solotune.known_errors import explain
    finally:
        sys.path.pop(0)
    found = explain(text, code)
    if found and found.fix not in text:  # the stage itself may have said it
        print(f"{found.cause}\n  fix: {found.fix}", file=sys.stderr)


def _output(command: Sequence[str]) -> str | None:
    """What a command prints; None when it fails or isn't there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_commit() -> str:
    """The commit, with a mark when files differ from it; empty where there is no git."""
    commit = _output(["git", "rev-parse", "HEAD"])
    if not commit:
        return ""
    return commit + ("-dirty" if _output(["git", "status", "--porcelain", "--untracked-files=no"]) else "")


def _version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.partition('\nversion = "')[2].partition('"')[0]


def _default_base() -> str:
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    return text.partition("\nARG BASE_IMAGE=")[2].partition("\n")[0]


def _print_command(command: Sequence[str], variables: dict[str, str]) -> None:
    print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *command]))
