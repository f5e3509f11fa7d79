"""What the host does with Docker: build the image, and run commands in it with its services of compose.yaml.

Imported by tasks.py on the host, and so made of the standard library alone and of Python 3.10.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
IMAGE = os.environ.get("SOLOTUNE_IMAGE_TAG", "solotune:latest")
WRITTEN = ("runs", "data/splits", "data/hub", "models")
"""Folders that are mounted. Docker would make a missing one as root, and compose.yaml tells it to refuse."""
SETTINGS = ".env"
"""What Compose reads by itself: so that commands typed by hand, editors and `invoke` mean the same containers."""
ENVIRONMENT_FILES = ("docker/Dockerfile", "docker/install-os.sh", "docker/solotune", "docker/uv.txt", "uv.lock")

_INTERACTIVE = ["--interactive", "--detach-keys", "ctrl-^,ctrl-_,ctrl-^"]
"""Docker's own keys to detach, Ctrl-P Ctrl-Q, are typed by mistake."""
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
    if sys.stderr.isatty():  # BuildKit draws its progress there; through a pipe it would print a line for each line
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        _explain(_why_no_build() if code else "", code)
    else:
        code = _explained(command, environment)
    if code == 0:
        _require_image()
    return code


def run(
    service: str,
    command: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    network_ca: bool = False,
    dry: bool = False,
) -> int:
    """Runs a command in a container of its own, removed afterwards; returns its exit code."""
    name = f"{_project()}-{service}-{uuid.uuid4().hex[:8]}"
    compose = [*_compose(network_ca), "run", "--rm", "--name", name]
    compose += [*([] if _has_terminal() else ["-T"]), service, *command]
    given = _variables(variables, dry=dry)
    if dry:
        _print_command(compose, given)
        return 0
    code = _follow(compose, given, name)
    return _wait_for_container(name, code)


def run_stage(
    service: str, command: Sequence[str], *, variables: Mapping[str, str] | None = None, dry: bool = False
) -> int:
    """Runs a stage as the service itself, one at a time; returns its exit code.

    `docker compose run` makes containers that `docker compose stop`, `ps` and `logs` don't see. A training is what
    these are for, so it becomes the service's own container: created with the stage's command, then attached to.
    """
    container = f"{_project()}-{service}-1"
    terminal = _has_terminal()
    stage = {
        "command": [word.replace("$", "$$") for word in command],  # compose interpolates $
        "container_name": container,
        "stdin_open": terminal,
        "tty": terminal,
    }
    override = json.dumps({"services": {service: stage}})
    create = [*_COMPOSE, "--file", "-", "create", "--force-recreate", service]
    attach = ["docker", "start", "--attach", *(_INTERACTIVE if terminal else []), container]
    given = _variables(variables, dry=dry)
    if dry:
        print(f"echo {shlex.quote(override)} | ", end="")
        _print_command(create, given)
        _print_command(attach, {})
        _print_command(["docker", "rm", container], {})
        return 0
    with _only_one(service):
        if _state(container).startswith("true"):
            raise Refused(_running(service))
        code = _explained(create, given, override)
        if code == 0:
            code = _wait_for_container(container, _follow(attach, {}, container))
        _output(["docker", "rm", container])
    return code


def prepare_for_editor() -> int:
    """What an editor's container needs beforehand: folders, settings, the image; returns an exit code."""
    try:
        _require_image()
    except Refused as refused:
        print(refused, file=sys.stderr)
        if "invoke build" not in str(refused):
            return 2
        return build()
    return 0


# --- what is refused before anything starts


def _require_docker() -> None:
    if _output(["docker", "--version"]) is None:
        raise Refused(f"there is no `docker` command here. `scripts/setup_wsl.sh` says how to get it; {_LOCAL}")


def _require_image() -> str:
    """The image's id; makes the folders that will be mounted, and the settings that Compose reads."""
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
    _write_settings(
        {"COMPOSE_PROJECT_NAME": _project(), "SOLOTUNE_UID": uid, "SOLOTUNE_GID": gid, "SOLOTUNE_IMAGE": image}
    )
    return image


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


def _user() -> tuple[str, str]:
    """Who the container's processes are: the user who calls, so that files in runs/ are theirs; never root."""
    uid = os.environ.get("SOLOTUNE_UID") or str(os.getuid())
    gid = os.environ.get("SOLOTUNE_GID") or (uid if os.environ.get("SOLOTUNE_UID") else str(os.getgid()))
    if uid == "0" or not (uid + gid).isdigit():
        raise Refused(
            "nothing in the container runs as root, and root called: use your own account (`su - NAME`; with WSL: "
            "`wsl -u NAME`), or say whose files they shall be with SOLOTUNE_UID and SOLOTUNE_GID"
        )
    return uid, gid


def _project() -> str:
    """Compose's name for this checkout of this user: `docker compose stop` in another one must not stop it."""
    return "solotune-" + hashlib.sha256(f"{_user()[0]}:{ROOT}".encode()).hexdigest()[:8]


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


def _variables(further: Mapping[str, str] | None, *, dry: bool) -> dict[str, str]:
    uid, gid = _user()
    found = {"COMPOSE_PROJECT_NAME": _project(), "SOLOTUNE_UID": uid, "SOLOTUNE_GID": gid}
    if not dry:
        found["SOLOTUNE_IMAGE"] = _require_image()
    return {**found, **(further or {})}


@contextmanager
def _only_one(service: str) -> Iterator[None]:
    """Two stages that start at once would each throw away the other's container."""
    with (ROOT / "runs" / f".{service}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(_running(service)) from None
        yield


def _running(service: str) -> str:
    return (
        f"a stage is already running in the {service} service: `docker compose logs -f {service}` shows it, "
        f"`docker compose stop {service}` saves and stops it"
    )


def _state(container: str) -> str:
    """`true CODE` while it runs, `false CODE` afterwards, nothing where there is none."""
    return _output(["docker", "inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", container]) or ""


def _wait_for_container(container: str, code: int) -> int:
    """Docker's client may end first: its pipe broke, or it was killed. The stage that saves isn't left alone."""
    if not _state(container).startswith("true"):
        return code
    with suppress(KeyboardInterrupt):
        waited = _output(["docker", "wait", container])
        return int(waited) if waited and waited.isdigit() else code
    return code


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _follow(command: Sequence[str], variables: Mapping[str, str], container: str) -> int:
    """Runs Docker's client until the container has ended; what stops us is handed to the container.

    The client itself isn't asked to: on a signal it leaves, and the container goes on without anybody watching.
    On a terminal, Ctrl-C is a character that the client carries into the container. Elsewhere the client lives in a
    session of its own, which the terminal's Ctrl-C doesn't reach.
    """
    ended = threading.Event()

    def hand_on(name: str) -> None:
        # In the first moments there is no container yet to take the signal.
        while _output(["docker", "kill", "--signal", name, container]) is None and not ended.wait(0.3):
            pass

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        name = "INT" if number == signal.SIGINT else "TERM"
        threading.Thread(target=hand_on, args=(name,), daemon=True).start()

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in wanted}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has set it
            signal.signal(number, forward)
    try:
        return _wait(_start(command, variables, apart=not _has_terminal()))
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _explained(command: Sequence[str], variables: Mapping[str, str], stdin: str | None = None) -> int:
    return _wait(_start(command, variables, stdin=stdin))


def _start(
    command: Sequence[str], variables: Mapping[str, str], *, stdin: str | None = None, apart: bool = False
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE if stdin is not None else None,
        stderr=subprocess.PIPE,
        start_new_session=apart,
        bufsize=0,
    )
    if stdin is not None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended before it read, and says why
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
        with suppress(BrokenPipeError):  # `2>&1 | tee log`, and Ctrl-C has ended tee
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
    found = explain(text, code) if code else None
    if found and found.fix not in text:  # the stage itself may have said it
        with suppress(BrokenPipeError):
            print(f"{found.cause}\n  fix: {found.fix}", file=sys.stderr)


def _why_no_build() -> str:
    """What a failed build has drawn can't be read; the two commonest causes can be asked for."""
    if _output(["docker", "buildx", "version"]) is None:
        return "the buildx component is missing"
    return subprocess.run(["docker", "info"], capture_output=True, text=True, check=False).stderr


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


def _print_command(command: Sequence[str], variables: Mapping[str, str]) -> None:
    print(shlex.join([*(f"{name}={value}" for name, value in variables.items()), *command]))
