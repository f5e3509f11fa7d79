"""What doctor says of libraries, memory, disk, folders and the compiler; with real files where there can be."""

from __future__ import annotations

import importlib.metadata
import shutil
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from solotune import environment
from solotune.stages.doctor import machine

GIB = 2**30


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOLOTUNE_IMAGE_LOCK", "XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR", "CC"):
        monkeypatch.delenv(name, raising=False)


def test_this_python_is_one_of_the_lock() -> None:
    assert machine.python().status == "ok"


@pytest.mark.parametrize("version", [(3, 10), (3, 15)])
def test_another_python_fails(version: tuple[int, int]) -> None:
    assert machine.python(version).status == "FAIL"


def write_lock(**versions: str) -> Path:
    path = Path("uv.lock")
    path.write_text("".join(f'[[package]]\nname = "{n}"\nversion = "{v}"\n' for n, v in versions.items()))
    return path


def test_what_is_installed_as_locked_is_fine(workspace: Path) -> None:
    lock = write_lock(numpy=importlib.metadata.version("numpy"), pytest=importlib.metadata.version("pytest"))
    finding = machine.lock(lock)
    assert finding.status == "ok"
    assert finding.found.startswith("2 packages as locked")


def test_another_version_of_any_locked_package_fails(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = write_lock(numpy="0.1", pytest="0.2")
    finding = machine.lock(lock)
    assert finding.status == "FAIL"
    assert f"numpy {importlib.metadata.version('numpy')} instead of 0.1" in finding.found
    assert "pytest" in finding.found
    assert "scripts/local.sh doctor" in finding.fix
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", "ab12")
    assert "`invoke build`" in machine.lock(lock).fix


def test_a_missing_library_fails(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LIBRARIES", ("torsch",))
    finding = machine.lock(write_lock(torsch="1.0"))
    assert (finding.status, finding.found) == ("FAIL", "torsch is missing")


def test_no_lock_fails(workspace: Path) -> None:
    assert machine.lock().status == "FAIL"


def meminfo(folder: Path, gib: float) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal: {int(gib * 2**20)} kB\nMemFree: 1 kB\nSwapTotal: 4194304 kB\nHugePages_Total: 0\n")
    return path


def test_enough_memory(tmp_path: Path) -> None:
    finding = machine.memory(meminfo(tmp_path, 15.5))
    assert (finding.status, finding.found) == ("ok", "15.5 GiB, swap 4.0 GiB")


def test_little_memory_warns_with_what_to_do_on_wsl_and_elsewhere(tmp_path: Path) -> None:
    path = meminfo(tmp_path, 7.7)
    on_wsl, elsewhere = machine.memory(path, wsl=True), machine.memory(path, wsl=False)
    assert (on_wsl.status, elsewhere.status) == ("warn", "warn")
    assert r"%UserProfile%\.wslconfig" in on_wsl.fix
    assert "memory=24GB" in on_wsl.fix
    assert "wslconfig" not in elsewhere.fix


def test_this_machines_memory_can_be_read() -> None:
    assert "GiB" in machine.memory().found


def disk_of(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=gib * GIB, total=gib * GIB, used=0))


@pytest.mark.parametrize(("gib", "status"), [(4.9, "FAIL"), (5, "warn"), (59, "warn"), (60, "ok")])
def test_disk(gib: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(monkeypatch, gib)
    finding = machine.disk()
    assert finding.status == status
    assert bool(finding.fix) is (status != "ok")


def test_shared_memory_of_a_container_that_nobody_told_otherwise_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(monkeypatch, 1 / 16)
    assert "sudo mount" in machine.shm().fix
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", "ab12")
    finding = machine.shm()
    assert (finding.status, finding.found) == ("warn", "0.06 GiB in /dev/shm")
    assert "compose.yaml" in finding.fix
    disk_of(monkeypatch, 8)
    assert machine.shm().status == "ok"


def test_folders_that_are_there_or_can_be_made_are_fine_and_stay_as_they_are(workspace: Path) -> None:
    Path("runs").mkdir()
    assert machine.folders().status == "ok"
    assert sorted(p.name for p in workspace.rglob("*")) == ["runs"]


@pytest.mark.parametrize("name", ["runs", "data", "models"])
def test_a_file_where_a_folder_is_needed_fails(workspace: Path, name: str) -> None:
    Path(name).write_text("")
    finding = machine.folders()
    assert finding.status == "FAIL"
    assert finding.found.startswith(name)
    assert "Move it away" in finding.fix


@pytest.mark.parametrize("target", ["/proc/self", "nowhere"])
def test_a_folder_that_refuses_a_file_fails(workspace: Path, target: str) -> None:
    """Both refuse root as well."""
    Path("runs").symlink_to(target)
    finding = machine.folders()
    assert finding.status == "FAIL"
    assert finding.found.startswith("runs: ")
    assert finding.fix


def test_somebody_elses_folder_fails_with_the_command_that_gives_it_back(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied", "/app/runs/tmp1")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    finding = machine.folders()
    assert finding.status == "FAIL"
    assert "sudo chown -R" in finding.fix


def test_models_may_lie_elsewhere_and_are_for_fetch_alone_in_the_container(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("SOLOTUNE_MODELS", "file")
    assert machine.folders().status == "FAIL"
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", "ab12")
    assert machine.folders().status == "ok"


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "HF_HOME", "TRITON_CACHE_DIR"])
def test_a_cache_that_cant_be_written_fails(workspace: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    assert machine.cache().found == "~/.cache/huggingface, ~/.triton/cache can be written"
    monkeypatch.setenv(name, "/proc/self")
    finding = machine.cache()
    assert finding.status == "FAIL"
    assert finding.found.startswith("/proc/self")
    assert list(workspace.iterdir()) == []


def test_the_compiler_of_this_machine_compiles_with_python_h() -> None:
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_paths(scheme)["include"], "Python.h")
    if not (shutil.which("gcc") or shutil.which("clang")) or not header.is_file():
        pytest.skip("no compiler or no Python.h here")
    assert machine.compiler(needed=True).status == "ok"


def test_a_compiler_without_python_h_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cc = tmp_path / "cc"
    cc.write_text("#!/bin/sh\necho 'probe.c:1:10: fatal error: Python.h: No such file or directory' >&2\nexit 1\n")
    cc.chmod(0o755)
    monkeypatch.setenv("CC", str(cc))
    finding = machine.compiler(needed=True)
    assert (finding.status, finding.found) == ("FAIL", "Python.h: No such file or directory")
    assert "python3-dev" in finding.fix
    monkeypatch.setenv("SOLOTUNE_IMAGE_LOCK", "ab12")
    assert "`invoke build`" in machine.compiler(needed=True).fix


def test_no_compiler_fails_where_a_gpu_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.compiler(needed=True).status == "FAIL"
    assert machine.compiler(needed=False).status == "skip"


def test_all_checks_of_the_group_have_a_name_each(workspace: Path) -> None:
    names = [finding.name for finding in machine.findings()]
    assert names == ["python", "lock", "memory", "disk", "shm", "folders", "cache", "compiler"]
    assert list(workspace.iterdir()) == []
