"""Commands and stages in a container of compose.yaml: exit code, signals, terminal."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from host import client, image
from host.client import ROOT

_INTERACTIVE = ["--interactive", "--detach-keys", "ctrl-^,ctrl-_,ctrl-^"]
"""Docker's own keys to detach, Ctrl-P Ctrl-Q, are typed by mistake."""
_COMPOSE = ["docker", "compose", "--progress", "quiet", "--file", "compose.yaml"]


def run(
    service: str,
    command: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    network_ca: bool = False,
    dry: bool = False,
) -> int:
    """Runs a command in a container of its own, removed afterwards; returns its exit code."""
    name = f"{image.project()}-{service}-{uuid.uuid4().hex[:8]}"
    compose = [*_compose(network_ca), "run", "--rm", "--name", name]
    compose += [*([] if _has_terminal() else ["-T"]), service, *command]
    given = _variables(variables, dry=dry)
    if dry:
        client.print_command(compose, given)
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
    container = f"{image.project()}-{service}-1"
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
        client.print_command(create, given)
        client.print_command(attach, {})
        client.print_command(["docker", "rm", container], {})
        return 0
    with _only_one(service):
        if _state(container).startswith("true"):
            raise image.Refused(_running(service))
        code = client.run_explained(create, given, override)
        if code == 0:
            code = _wait_for_container(container, _follow(attach, {}, container))
        client.output(["docker", "rm", container])
    return code


def _compose(network_ca: bool) -> list[str]:
    """With EXTRA_CA_FILE set, what has a network trusts that bundle."""
    if network_ca and os.environ.get("EXTRA_CA_FILE"):
        return [*_COMPOSE, "--file", "compose.ca.yaml"]
    return [*_COMPOSE]


def _variables(further: Mapping[str, str] | None, *, dry: bool) -> dict[str, str]:
    uid, gid = image.user()
    found = {"COMPOSE_PROJECT_NAME": image.project(), "SOLOTUNE_UID": uid, "SOLOTUNE_GID": gid}
    if not dry:
        found["SOLOTUNE_IMAGE"] = image.require_image()
    return {**found, **(further or {})}


@contextmanager
def _only_one(service: str) -> Iterator[None]:
    """Two stages that start at once would each throw away the other's container."""
    with (ROOT / "runs" / f".{service}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise image.Refused(_running(service)) from None
        yield


def _running(service: str) -> str:
    return (
        f"a stage is already running in the {service} service: `docker compose logs -f {service}` shows it, "
        f"`docker compose stop {service}` saves and stops it"
    )


def _state(container: str) -> str:
    """`true CODE` while it runs, `false CODE` afterwards, nothing where there is none."""
    return client.output(["docker", "inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", container]) or ""


def _wait_for_container(container: str, code: int) -> int:
    """Docker's client may end first: its pipe broke, or it was killed. The stage that saves isn't left alone."""
    if not _state(container).startswith("true"):
        return code
    with suppress(KeyboardInterrupt):
        waited = client.output(["docker", "wait", container])
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
        while client.output(["docker", "kill", "--signal", name, container]) is None and not ended.wait(0.3):
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
        return client.wait(client.start(command, variables, apart=not _has_terminal()))
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
