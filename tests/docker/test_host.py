"""docker/host without an engine: what it refuses, what it would start, what it makes of failures."""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import tasks  # its first lines put docker/ on the path

from host import container, image

ROOT = Path(tasks.__file__).parent


@pytest.fixture(autouse=True)
def somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLOTUNE_UID", "1234")
    monkeypatch.setenv("SOLOTUNE_GID", "5678")
    monkeypatch.delenv("EXTRA_CA_FILE", raising=False)
    monkeypatch.setattr(image, "SETTINGS", str(tmp_path / "settings"))


def fake_docker(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A `docker` that writes its arguments to a file, then does `script`."""
    program = folder / "docker"
    calls = folder / "calls"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {calls}\n{textwrap.dedent(script)}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return calls


def in_python(call: str, hangup: str = "SIG_DFL") -> list[str]:
    """A process that ends with the exit code of a call."""
    code = (
        "import sys, signal; sys.path.insert(0, 'docker'); from host import container, image;"
        # A background job, as a test may be, begins with both ignored.
        f"signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.{hangup});"
        f"image.SETTINGS = {image.SETTINGS!r}; sys.exit({call})"
    )
    return [sys.executable, "-c", code]


def test_a_dry_build_shows_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert image.build("mirror.example/cuda@sha256:abc", "", no_cache=True, dry=True) == 0
    out = capsys.readouterr().out
    lock = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()
    for argument in (
        "UID=1234", "GID=5678", f"LOCK_SHA256={lock}", "BASE_DIGEST=sha256:abc",
        "BASE_IMAGE=mirror.example/cuda@sha256:abc", "APT_SNAPSHOT=",
    ):  # fmt: skip
        assert f"--build-arg {shlex.quote(argument)}" in out
    assert out.startswith("DOCKER_BUILDKIT=1 docker build ")
    assert "--no-cache" in out
    assert out.rstrip().endswith(" .")


def test_the_default_base_is_pinned_by_digest(capsys: pytest.CaptureFixture[str]) -> None:
    image.build(dry=True)
    out = capsys.readouterr().out
    assert "BASE_DIGEST=sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1" in out
    assert "BASE_IMAGE=" not in out, "the Dockerfile's own"
    assert "APT_SNAPSHOT" not in out


def test_certificates_go_in_as_a_secret_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXTRA_CA_FILE", "/etc/company.pem")
    image.build(dry=True)
    assert "--secret id=extra_ca,src=/etc/company.pem" in capsys.readouterr().out
    container.run("fetch", ["solotune", "fetch"], network_ca=True, dry=True)
    assert "compose.ca.yaml" in capsys.readouterr().out
    container.run("cpu", ["solotune", "prepare"], dry=True)
    assert "compose.ca.yaml" not in capsys.readouterr().out


def test_a_dry_stage_shows_commands_that_a_shell_would_take(capsys: pytest.CaptureFixture[str]) -> None:
    container.run_stage("gpu", ["solotune", "train", "--set", "a=$b 'c'"], dry=True)
    create, attach, remove = capsys.readouterr().out.splitlines()
    said = subprocess.run(["sh", "-c", create.split(" | ")[0]], capture_output=True, text=True, check=True).stdout
    assert """"--set", "a=$$b 'c'\"""" in said, "compose takes $$ for $"
    project = image.project()
    assert f"COMPOSE_PROJECT_NAME={project} SOLOTUNE_UID=1234 SOLOTUNE_GID=5678 docker compose" in create
    assert attach == f"docker start --attach {project}-gpu-1"
    assert remove == f"docker rm {project}-gpu-1"


def test_without_docker_the_other_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for start in (
        image.build,
        lambda: container.run("cpu", ["true"]),
        lambda: container.run_stage("cpu", ["true"]),
    ):
        with pytest.raises(image.Refused, match=r"scripts/setup_wsl\.sh.*scripts/local\.sh"):
            start()


@pytest.mark.parametrize("said", [None, "", "0"])
def test_root_is_refused(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOLOTUNE_UID")
    if said is not None:
        monkeypatch.setenv("SOLOTUNE_UID", said)
    monkeypatch.setattr(image.os, "getuid", lambda: 0)
    with pytest.raises(image.Refused, match="nothing in the container runs as root"):
        image.build(dry=True)


def test_an_engine_that_does_not_answer_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    fake_docker(tmp_path, monkeypatch, f'[ "$1" = --version ] || {{ echo "{message}" >&2; exit 1; }}')
    with pytest.raises(image.Refused, match=r"scripts/local\.sh"):
        container.run("cpu", ["true"])
    err = capsys.readouterr().err
    assert message in err
    assert "fix: " in err


def test_an_image_that_is_not_there_is_built_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_docker(tmp_path, monkeypatch, '[ "$1" = --version ] || { echo "Error: No such image: x" >&2; exit 1; }')
    with pytest.raises(image.Refused, match="invoke build"):
        container.run("cpu", ["true"])


def current() -> str:
    return image.environment_sha256("1234", "5678")


@pytest.mark.parametrize("changed", [*image.ENVIRONMENT_FILES, "user"])
def test_an_image_of_another_environment_is_refused(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "checkout"
    for name in image.ENVIRONMENT_FILES:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(image, "ROOT", copy)
    fake_docker(tmp_path, monkeypatch, f'[ "$1" != image ] || echo sha256:1234 {current()}')
    assert image.require_image() == "sha256:1234"
    if changed == "user":
        monkeypatch.setenv("SOLOTUNE_UID", "1")
    else:
        with (copy / changed).open("a") as file:
            file.write("\n")
    with pytest.raises(image.Refused, match="invoke build"):
        image.require_image()


def test_folders_are_made_before_docker_could_make_them_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = current()
    monkeypatch.setattr(image, "environment_sha256", lambda uid, gid: environment)
    monkeypatch.setattr(image, "ROOT", tmp_path)
    fake_docker(tmp_path, monkeypatch, f'[ "$1" != image ] || echo sha256:1234 {environment}')
    image.require_image()
    assert all((tmp_path / folder).is_dir() for folder in image.WRITTEN)


def test_exit_code_and_error_stream_pass_through_and_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    message = 'could not select device driver \\"nvidia\\" with capabilities: [[gpu]]'
    calls = fake_docker(
        tmp_path,
        monkeypatch,
        f"""
        [ "$1" != image ] || echo sha256:1234 {current()}
        [ "$1" != compose ] || {{ echo "$SOLOTUNE_UID $SOLOTUNE_IMAGE"; echo "Error: {message}" >&2; exit 125; }}
        """,
    )
    code = subprocess.run(
        in_python("container.run('gpu', ['solotune', 'plan'])"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert code.returncode == 125
    assert code.stdout == "1234 sha256:1234\n"
    assert "could not select device driver" in code.stderr
    assert "nvidia-container-toolkit" in code.stderr
    assert "-T gpu solotune plan" in calls.read_text()


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM"), (signal.SIGHUP, "TERM")]
)
def test_a_signal_is_handed_to_the_container_and_its_end_awaited(
    number: signal.Signals, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client lives until the container, which saves, has ended."""
    calls = fake_docker(
        tmp_path,
        monkeypatch,
        f"""
        case "$1" in
        image) echo sha256:1234 {current()} ;;
        kill) touch {tmp_path}/killed ;;
        compose)
            echo up
            while [ ! -e {tmp_path}/killed ]; do sleep 0.05; done
            echo saved
            exit 143 ;;
        esac
        """,
    )
    command = in_python("container.run('cpu', ['sleep'])")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.killpg(process.pid, number)  # as a terminal does: to everybody of its session
        assert process.stdout.read() == "saved\n"
        assert process.wait(timeout=20) == 143
    end = time.monotonic() + 5
    while "kill" not in calls.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert f"kill --signal {name} solotune-" in calls.read_text()


def test_a_stage_that_runs_already_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_docker(
        tmp_path, monkeypatch, f'case "$1" in image) echo sha256:1234 {current()} ;; inspect) echo true 0 ;; esac'
    )
    with pytest.raises(image.Refused, match="already running in the gpu service"):
        container.run_stage("gpu", ["solotune", "train"])
    assert "compose" not in calls.read_text()
    assert "rm" not in calls.read_text().split()


def test_a_signal_that_was_ignored_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nohup invoke train &` outlives the terminal."""
    calls = fake_docker(
        tmp_path,
        monkeypatch,
        f"""
        case "$1" in
        image) echo sha256:1234 {current()} ;;
        compose) echo up; sleep 1 ;;
        esac
        """,
    )
    command = in_python("container.run('cpu', ['sleep'])", hangup="SIG_IGN")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=20) == 0
    assert "kill" not in calls.read_text()


def test_an_early_signal_is_repeated_until_there_is_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_docker(
        tmp_path,
        monkeypatch,
        f"""
        case "$1" in
        image) echo sha256:1234 {current()} ;;
        kill) [ -e {tmp_path}/created ] || exit 1; touch {tmp_path}/killed ;;
        compose)
            echo up
            sleep 1; touch {tmp_path}/created
            while [ ! -e {tmp_path}/killed ]; do sleep 0.05; done
            exit 143 ;;
        esac
        """,
    )
    command = in_python("container.run('cpu', ['sleep'])")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(timeout=20) == 143
    assert calls.read_text().count("kill") > 1


def test_a_client_that_ends_first_doesnt_end_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`invoke train 2>&1 | tee log`: Ctrl-C ends tee, a broken pipe the client, and the stage is still saving."""
    calls = fake_docker(
        tmp_path,
        monkeypatch,
        f"""
        case "$1" in
        image) echo sha256:1234 {current()} ;;
        start) touch {tmp_path}/started; exit 141 ;;
        inspect) [ -e {tmp_path}/started ] && echo true 0 || echo false 0 ;;
        wait) echo 130 ;;
        esac
        """,
    )
    monkeypatch.setattr(image, "ROOT", ROOT)
    assert container.run_stage("cpu", ["solotune", "train"]) == 130
    last = [line.split()[0] for line in calls.read_text().splitlines()][-2:]
    assert last == ["wait", "rm"]
    assert "--force-recreate" in calls.read_text()
    assert "rm --force" not in calls.read_text()


def test_settings_keep_what_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / ".env"
    settings.write_text("HF_TOKEN=hf_abc\nSOLOTUNE_UID=7")  # no line break at the end
    settings.chmod(0o600)
    monkeypatch.setattr(image, "SETTINGS", str(settings))
    image._write_settings({"SOLOTUNE_UID": "1234", "SOLOTUNE_IMAGE": "sha256:1"})
    assert settings.read_text() == "HF_TOKEN=hf_abc\nSOLOTUNE_UID=1234\nSOLOTUNE_IMAGE=sha256:1\n"
    assert settings.stat().st_mode & 0o777 == 0o600


def test_two_checkouts_and_two_users_are_two_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {image.project()}
    monkeypatch.setattr(image, "ROOT", tmp_path)
    names.add(image.project())
    monkeypatch.setenv("SOLOTUNE_UID", "77")
    names.add(image.project())
    assert len(names) == 3
