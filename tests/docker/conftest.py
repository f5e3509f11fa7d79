"""A real engine, an image built from a small Debian, and a checkout that a user of this machine owns.

Everything goes through the commands of the README, as that user: `scripts/setup_wsl.sh --fix`, then `invoke …`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = "solotune-test-base:bookworm"
IMAGE = "solotune-test:latest"
"""Apart from the image that its user trains with."""
CERTIFICATES = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
USER = "solotune-tester"


def docker(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check, **options)


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips where there is none; .ci/run starts one."""
    try:
        answer = docker("version", check=False)
    except OSError:
        pytest.skip("no Docker engine: there is no docker command")
    if answer.returncode:
        pytest.skip(f"no Docker engine: {answer.stderr.strip().splitlines()[-1]}")


@dataclass(frozen=True)
class User:
    """Who calls invoke: never root, since the container would have its files."""

    uid: int
    gid: int
    home: Path
    options: dict[str, Any] = field(default_factory=dict)

    def popen(self, *command: str | Path, cwd: Path, **options: Any) -> subprocess.Popen[Any]:
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.home}/.local/bin:/usr/local/bin:/usr/bin:/bin",
            "EXTRA_CA_FILE": CERTIFICATES,
            "SSL_CERT_FILE": CERTIFICATES,
            "SOLOTUNE_IMAGE_TAG": IMAGE,
            **options.pop("env", {}),
        }
        whole = ["env", "--default-signal=INT,HUP", *map(str, command)]  # a background job begins with it ignored
        return subprocess.Popen(whole, cwd=cwd, env=environment, **self.options, **options)

    def run(self, *command: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        process = self.popen(*command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        out, err = process.communicate()
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    if os.getuid() != 0:
        return User(os.getuid(), os.getgid(), tmp_path_factory.mktemp("home"))
    try:
        known = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--uid", "4321", "--groups", "docker", USER], check=True)
        known = pwd.getpwnam(USER)
    groups = [known.pw_gid, os.stat("/var/run/docker.sock").st_gid]
    identity = {"user": known.pw_uid, "group": known.pw_gid, "extra_groups": groups}
    return User(known.pw_uid, known.pw_gid, Path(known.pw_dir), identity)


@pytest.fixture(scope="session")
def shared(user: User) -> Iterator[Path]:
    """A folder that the user can read: those of pytest are closed to everybody but root."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="solotune-shared-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Checkout:
    """The working tree, as a clone that belongs to the user."""

    root: Path
    user: User

    def invoke(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.user.run("invoke", *arguments, cwd=self.root, **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        return self.user.popen("invoke", *arguments, cwd=self.root, **options)

    def run(self, *command: str, service: str = "cpu") -> subprocess.CompletedProcess[str]:
        """A command in a container of the service, as `invoke` starts it."""
        return self.user.run(
            "docker", "compose", "run", "--rm", "-T", service, *command, cwd=self.root
        )  # .env says as whom

    @property
    def settings(self) -> dict[str, str]:
        """What `invoke build` has put into .env."""
        lines = (self.root / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def project(self) -> str:
        return self.settings["COMPOSE_PROJECT_NAME"]

    def build(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.invoke("build", "--base-image", BASE, "--apt-snapshot", "today", *arguments, **options)


@pytest.fixture(scope="session")
def base(engine: None) -> str:
    """A local image with Python and a user 1000, as Ubuntu 24.04 has; no registry is asked."""
    rootfs = os.environ.get("SOLOTUNE_ROOTFS")
    if docker("image", "inspect", BASE, check=False).returncode:
        if not rootfs:
            pytest.skip("no base image: `tests/wsl/make_rootfs.sh DIR`, then SOLOTUNE_ROOTFS=DIR")
        with subprocess.Popen(["tar", "-C", rootfs, "-c", "."], stdout=subprocess.PIPE) as tar:
            docker("import", "-", BASE, stdin=tar.stdout)
        assert tar.returncode == 0
    return BASE


@pytest.fixture(scope="session")
def checkout(base: str, user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A clone with invoke set up and the image built."""
    folder = Path("/var/tmp/solotune-checkout")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chown(folder, user.uid, user.gid)
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for path in folder.rglob("*"):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    for command in (
        ("git", "init", "-q"),
        ("git", "add", "-A"),
        ("git", "-c", "user.name=Tester", "-c", "user.email=tester@example.org", "commit", "-q", "-m", "As it is"),
    ):
        done = user.run(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
    made = Checkout(folder, user)
    user.run(folder / "scripts" / "setup_wsl.sh", "--fix", cwd=folder)
    built = made.build()
    assert built.returncode == 0, built.stderr[-3000:]
    yield made
    user.run("docker", "compose", "--profile", "*", "down", "--volumes", cwd=folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a container behind."""
    yield
    if "checkout" in request.fixturenames:
        project = request.getfixturevalue("checkout").project
        mine = f"label=com.docker.compose.project={project}"
        left = docker("ps", "--all", "--filter", mine, "--format", "{{.Names}}")
        if left.stdout:
            docker("rm", "--force", *left.stdout.split())
            pytest.fail(f"left running: {left.stdout}", pytrace=False)
