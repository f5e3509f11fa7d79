"""What every run needs, in a container or not: libraries, a compiler, memory, disk, folders."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from solotune import environment
from solotune.known_errors import WSLCONFIG
from solotune.stages.doctor.container import inside
from solotune.stages.doctor.finding import Finding, checked, failed, short

_GIB = 2**30
_MEMORY_GIB = 15
"""A VM of 16 GB shows 15.x."""
_DISK_GIB, _DISK_LEAST_GIB = 60, 5
_SHM_GIB = 1
_PROBE = "#include <Python.h>\nint probe(void) { return PY_MAJOR_VERSION; }\n"


def findings() -> Iterable[Finding]:
    """All checks of this group, cheap ones first."""
    yield python()
    yield checked("lock", lock)
    yield checked("memory", memory)
    yield checked("disk", disk)
    yield checked("shm", shm)
    yield checked("folders", folders)
    yield checked("cache", cache)
    yield checked("compiler", lambda: compiler(needed=inside() or bool(environment.gpus())))


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """CPython of a version that the lock has wheels for."""
    text = sys.version.split()[0]
    if not (3, 11) <= version <= (3, 14):
        return Finding(
            "python", "FAIL", text, "The lock has wheels for 3.11 to 3.14: `sudo apt-get install python3.12`"
        )
    return Finding("python", "ok", text)


def lock(path: Path = Path("uv.lock")) -> Finding:
    """Whether what is installed is what uv.lock says."""
    if not path.is_file():
        return Finding("lock", "FAIL", "no uv.lock in this folder", "Run it in the root of the repository")
    locked: dict[str, set[str]] = {}
    for package in tomllib.loads(path.read_text(encoding="utf-8"))["package"]:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    installed = {_normal(d.name): d.version for d in importlib.metadata.distributions() if d.name}
    wrong = [
        f"{name} {version} instead of {'/'.join(sorted(locked[name]))}"
        for name, version in sorted(installed.items())
        if name != "solotune" and name in locked and version not in locked[name]
    ]
    missing = [f"{name} is missing" for name in environment.LIBRARIES if name in locked and name not in installed]
    if wrong or missing:
        how = "`invoke build`" if inside() else "`rm -f .venv/.solotune-sync`, then `scripts/local.sh doctor`"
        return Finding(
            "lock", "FAIL", "; ".join([*missing, *wrong][:5]), f"Only locked versions are known to work together: {how}"
        )
    known = len(installed.keys() & locked.keys())
    return Finding("lock", "ok", f"{known} packages as locked (torch {installed.get('torch', 'not in it')})")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def memory(meminfo: Path = Path("/proc/meminfo"), *, wsl: bool | None = None) -> Finding:
    """Memory of the machine, or of WSL's virtual one."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.endswith("kB")}
    total = kib["MemTotal"] / 2**20
    found = f"{total:.1f} GiB, swap {kib.get('SwapTotal', 0) / 2**20:.1f} GiB"
    if total >= _MEMORY_GIB:
        return Finding("memory", "ok", found)
    why = "A 7-8B model passes through memory, and a process that finds none is killed (exit 137)"
    if environment.is_wsl() if wsl is None else wsl:
        how = f"WSL takes half of the PC's: {WSLCONFIG}"
    else:
        how = "choose a smaller base model, or add swap"
    return Finding("memory", "warn", found, f"{why}. {how}")


def disk(folder: Path = Path()) -> Finding:
    """Free space where runs are written."""
    free = shutil.disk_usage(folder).free / _GIB
    how = ", e.g. `docker system prune`" if inside() else ""
    fix = f"The image, an 8B model, its run and its export take up to {_DISK_GIB} GiB: make room{how}"
    if free < _DISK_LEAST_GIB:
        return Finding("disk", "FAIL", f"{free:.1f} GiB free", fix)
    return Finding(
        "disk", "warn" if free < _DISK_GIB else "ok", f"{free:.0f} GiB free", fix if free < _DISK_GIB else ""
    )


def shm(folder: Path = Path("/dev/shm")) -> Finding:  # noqa: S108  (not a temporary file)
    """Shared memory: 64 MB in a container that nobody told otherwise."""
    size = shutil.disk_usage(folder).total / _GIB
    if size >= _SHM_GIB:
        return Finding("shm", "ok", f"{size:.1f} GiB in {folder}")
    how = (
        "start it with `invoke TASK` (shm_size in compose.yaml)"
        if inside()
        else f"`sudo mount -o remount,size=4G {folder}`"
    )
    return Finding(
        "shm", "warn", f"{size:.2f} GiB in {folder}", f"Data loaders die of a bus error when it is full: {how}"
    )


def folders() -> Finding:
    """Whether stages can write where they write. In the container models/ is for fetch alone."""
    wanted = [Path("runs"), Path("data/splits")]
    if not inside():
        wanted.append(Path(os.environ.get("SOLOTUNE_MODELS", "models")))
    return _writable("folders", wanted)


def cache() -> Finding:
    """Whether libraries can write their caches; Triton can't do without."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    wanted = [
        Path(os.environ.get("HF_HOME") or home / "huggingface"),
        Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache"),
    ]
    return _writable("cache", wanted)


def _writable(name: str, wanted: list[Path]) -> Finding:
    for folder in wanted:
        existing = folder
        while not (existing.exists() or existing.is_symlink()):
            existing = existing.parent
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            finding = failed(name, error, f"Nothing can be written to {short(folder)}: `ls -ld {short(existing)}`")
            return replace(finding, found=f"{short(existing)}: {error.strerror}")
    return Finding(name, "ok", f"{', '.join(short(f) for f in wanted)} can be written")


def compiler(*, needed: bool) -> Finding:
    """Compiles what Triton compiles on a kernel's first launch: C that includes Python.h (triton/runtime/build.py)."""
    cc = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if cc is None:
        return _no_compiler("no gcc and no clang", needed=needed)
    # Debian's own scheme names a folder below /usr/local, without headers.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(_PROBE)
        command = [cc, str(source), "-shared", "-fPIC", f"-I{sysconfig.get_paths(scheme)['include']}"]
        done = subprocess.run([*command, "-o", f"{source}.so"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
        return _no_compiler(lines[0].split("error: ")[-1].removesuffix("compilation terminated."), needed=needed)
    return Finding("compiler", "ok", f"{Path(cc).name}, with Python.h")


def _no_compiler(found: str, *, needed: bool) -> Finding:
    if not needed:
        return Finding("compiler", "skip", f"{found}; only a GPU needs it")
    how = "`invoke build`" if inside() else "`sudo apt-get install gcc libc6-dev python3-dev`"
    return Finding("compiler", "FAIL", found, f"Triton compiles a little C at first use: {how}")
