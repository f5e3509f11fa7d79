"""setup_wsl.sh on machines made of stubs: what it says, how it exits, and that it writes nothing unasked.

Quick and without root; tests/wsl has the same on whole machines, with real tools at the real paths.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "setup_wsl.sh"
CORE_TOOLS = (
    *("awk", "bash", "cat", "cut", "date", "dirname", "find", "grep", "ln", "mkdir"),
    *("sed", "sleep", "sort", "stat", "timeout", "tr"),
)
WSL2_KERNEL = "6.6.87.2-microsoft-standard-WSL2"
GIB_IN_KIB = 1024 * 1024
BASE_IMAGE = "nvidia/cuda:13@sha256:abc"
DOCKER_RUN = "run --rm --network none --gpus driver=nvidia,count=1,capabilities=gpu * nvidia-smi -L"
GPU_LINE = "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-0)"
POWERSHELL = "windows/Windows/System32/WindowsPowerShell/v1.0"


@dataclass
class Finding:
    status: str
    found: str
    fix: str


@dataclass
class Machine:
    """A folder that setup_wsl.sh takes for the machine. What a method sets replaces what was there."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bin", "home", "project", "lib", "windows", "shm"):
            (self.folder / name).mkdir()
        for tool in CORE_TOOLS:
            path = shutil.which(tool)
            assert path, tool
            (self.folder / "bin" / tool).symlink_to(path)
        self.kernel("6.1.0-40-amd64")
        self.memory(total=24, swap=16)
        self.tool(
            "df",
            {"*": "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sdc 9 9 104857600 9% /"},
        )
        self.tool("findmnt", {"*": "ext4"})
        self.tool("python3", {"*platform*": "3.12.3"})
        self.tool("invoke", {"--version": "Invoke 3.0.3"})
        for name in ("runs", "data/splits", "models", "scripts", "docker"):
            (self.folder / "project" / name).mkdir(parents=True)
        (self.folder / "project" / "tasks.py").write_bytes(b"import invoke\n")
        (self.folder / "project" / "docker" / "Dockerfile").write_text(f"ARG BASE_IMAGE={BASE_IMAGE}\nARG BASE_IMAGE\n")

    def tool(self, name: str, answers: dict[str, str | tuple[int, str]], at: str = "bin") -> None:
        """A program that prints an answer by its arguments (shell patterns, the first that fits)."""
        lines = ["#!/bin/sh", 'case "$*" in']
        for pattern, answer in answers.items():
            status, text = answer if isinstance(answer, tuple) else (0, answer)
            quoted = pattern.replace(" ", "\\ ").replace("{", "\\{").replace("}", "\\}")
            stream = ">&2" if status else ""
            lines.append(f"{quoted}) printf '%s\\n' {shlex.quote(text)} {stream}; exit {status} ;;")
        lines += ["esac", 'echo "stub of $0: unexpected $*" >&2', "exit 64"]
        self.program(name, "\n".join(lines) + "\n", at)

    def program(self, name: str, text: str, at: str = "bin") -> None:
        path = self.folder / at / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def kernel(self, release: str) -> None:
        (self.folder / "osrelease").write_text(release + "\n")

    def memory(self, total: int, swap: int) -> None:
        kib = {"MemTotal": total * GIB_IN_KIB, "MemFree": 1, "SwapTotal": swap * GIB_IN_KIB}
        lines = [f"{name}:       {value} kB\n" for name, value in kib.items()]
        (self.folder / "meminfo").write_text("".join(lines))

    def wsl2(self, driver: str = "581.57") -> None:
        self.kernel(WSL2_KERNEL)
        (self.folder / "dxg").touch()
        (self.folder / "lib" / "libcuda.so.1").touch()
        self.tool("nvidia-smi", {"--query-gpu=*": f"NVIDIA GeForce RTX 4090, 24564, {driver}"}, at="lib")
        self.tool("dpkg-query", {"*": (1, "no packages found matching nvidia-driver*")})
        answer = "".join(f"{letter}\\000" for letter in "WSL-Versie: 2.6.1.0") + "\\r\\000\\n\\000"  # UTF-16
        self.program("wsl.exe", f"#!/bin/sh\nprintf '{answer}'\n")
        self.clock(0)

    def clock(self, ahead: int) -> None:
        """Windows' clock is so many seconds ahead."""
        (self.folder / POWERSHELL).mkdir(parents=True, exist_ok=True)
        self.program("powershell.exe", f"#!/bin/sh\nprintf '%d\\r\\n' $(($(date +%s) + {ahead}))\n", at=POWERSHELL)

    def docker(self, system: str, **other: str | tuple[int, str]) -> None:
        self.tool(
            "docker",
            {
                "--version": "Docker version 29.1.3, build abc",
                "version --format*": "29.1.3",
                "info --format*OperatingSystem*": system,
                "info --format*Runtimes*": '{"nvidia":{"path":"nvidia-container-runtime"},"runc":{}}',
                "info --format*DockerRootDir*": "/no/such/folder",
                "context inspect*": "unix:///var/run/docker.sock",
                "compose version*": "2.40.3-desktop.1",
                "buildx version*": "github.com/docker/buildx v0.29.1 a32761aeb3debd39be1eca514af3693af0db334b",
                "image inspect*": "[{}]",
                DOCKER_RUN: GPU_LINE,
                **other,
            },
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        at = self.folder
        environment = {
            "PATH": str(at / "bin"),
            "HOME": str(at / "home"),
            "SOLOTUNE_ROOT": str(at / "project"),
            "PROC_OSRELEASE": str(at / "osrelease"),
            "PROC_MEMINFO": str(at / "meminfo"),
            "DXG_DEVICE": str(at / "dxg"),
            "SHM_DIR": str(at / "shm"),
            "SYSTEMD_DIR": str(at / "systemd"),
            "WSL_LIB": str(at / "lib"),
            "WINDOWS_DRIVE": str(at / "windows"),
            "WSL_DISTRO_NAME": "Debian",
            "TOOL_SECONDS": "5",
            **self.variables,
        }
        return subprocess.run(
            [shutil.which("bash") or "bash", SCRIPT, *arguments],
            check=False,
            env=environment,
            cwd=at / "home",
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def findings(self, *arguments: str) -> dict[str, Finding]:
        answer = self.run("--json", *arguments)
        report = json.loads(answer.stdout)
        findings = {check["name"]: Finding(check["status"], check["found"], check["fix"]) for check in report["checks"]}
        failed = any(finding.status == "FAIL" for finding in findings.values())
        assert answer.returncode == (1 if failed else 0), answer.stderr
        assert report["ready"] is not failed
        return findings

    def listing(self) -> list[tuple[str, int, int, str]]:
        """Everything in the folder, with its time and content."""
        entries = []
        for path in sorted(self.folder.rglob("*")):
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
            entries.append((str(path), status.st_mtime_ns, status.st_mode, content))
        return entries


@pytest.fixture
def linux(tmp_path: Path) -> Machine:
    """Plain Linux with neither GPU nor Docker."""
    return Machine(tmp_path)


@pytest.fixture
def desktop(linux: Machine) -> Machine:
    """WSL2 with a 4090 and Docker Desktop: nothing is missing."""
    linux.wsl2()
    linux.docker("Docker Desktop")
    return linux


@pytest.fixture
def native(linux: Machine) -> Machine:
    """WSL2 with a 4090 and Docker Engine inside the distribution: nothing is missing."""
    linux.wsl2()
    linux.docker(
        "Ubuntu 24.04.3 LTS", **{"compose version*": "2.40.3", "buildx version*": "github.com/docker/buildx 0.21.3"}
    )
    linux.tool("nvidia-ctk", {"--version": "NVIDIA Container Toolkit CLI version 1.19.0\ncommit: abc"})
    (linux.folder / "systemd").mkdir()
    return linux


def states(findings: dict[str, Finding], status: str) -> set[str]:
    return {name for name, finding in findings.items() if finding.status == status}


def test_docker_desktop_is_ready(desktop: Machine) -> None:
    findings = desktop.findings()
    assert states(findings, "ok") | {"toolkit", "systemd"} == set(findings)
    assert findings["wsl-release"].found == "WSL 2.6.1.0"
    assert findings["nvidia-smi"].found == "NVIDIA GeForce RTX 4090, 24564 MiB"
    assert findings["docker-engine"].found == "Docker Desktop, 29.1.3"
    assert "Docker Desktop has its own" in findings["toolkit"].found


def test_native_engine_is_ready(native: Machine) -> None:
    findings = native.findings()
    assert states(findings, "ok") == set(findings)
    assert findings["docker-engine"].found == "native engine, Ubuntu 24.04.3 LTS, 29.1.3"
    assert findings["toolkit"].found == "toolkit 1.19.0"
    assert findings["gpu-container"].found == "NVIDIA GeForce RTX 4090 in solotune:latest"


def test_a_tool_that_says_more_after_its_version(native: Machine) -> None:
    text = "NVIDIA Container Toolkit CLI version 1.19.0"
    native.program("nvidia-ctk", f"#!/bin/sh\necho '{text}'\nsleep 0.2\necho 'commit: 1.2.3'\n")
    assert native.findings()["toolkit"].found == "toolkit 1.19.0"


def test_a_line_for_each_check_in_the_documented_form(desktop: Machine) -> None:
    answer = desktop.run()
    lines = answer.stdout.splitlines()
    assert lines[0] == f"ok    wsl — WSL 2, kernel {WSL2_KERNEL}"
    assert lines[-1] == "ready (0 warn). Next: invoke build, then invoke doctor"
    assert len(lines) == len(desktop.findings()) + 2
    assert not answer.stderr


def test_a_fail_line_ends_in_its_fix(desktop: Machine) -> None:
    desktop.wsl2(driver="551.78")
    lines = desktop.run().stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("FAIL")]
    assert line.startswith("FAIL  driver — driver 551.78 — CUDA 13 needs 580 or later")
    assert lines[-1].startswith("not ready: 1 FAIL, 0 warn.")


# Each row is one thing that can be wrong: the check that says so, its status, and
# a piece of what it found and of its fix.


def wsl1(machine: Machine) -> None:
    machine.kernel("4.4.0-19041-Microsoft")
    (machine.folder / "dxg").unlink()


def old_kernel(machine: Machine) -> None:
    machine.kernel("5.4.72-microsoft-standard-WSL2")


def old_wsl_release(machine: Machine) -> None:
    machine.program("wsl.exe", "#!/bin/sh\necho 'WSL version: 2.0.9.0'\n")


def no_wsl_exe(machine: Machine) -> None:
    (machine.folder / "bin" / "wsl.exe").unlink()


def no_gpu(machine: Machine) -> None:
    (machine.folder / "dxg").unlink()


def no_libcuda(machine: Machine) -> None:
    (machine.folder / "lib" / "libcuda.so.1").unlink()


def no_nvidia_smi(machine: Machine) -> None:
    (machine.folder / "lib" / "nvidia-smi").unlink()


def blocked_gpu(machine: Machine) -> None:
    text = "Failed to initialize NVML: GPU access blocked by the operating system"
    machine.tool("nvidia-smi", {"*": (255, text)}, at="lib")


def silent_gpu(machine: Machine) -> None:
    machine.program("nvidia-smi", "#!/bin/sh\nexec sleep 30\n", at="lib")
    machine.variables["TOOL_SECONDS"] = "0.3"


def linux_driver(machine: Machine) -> None:
    machine.tool("dpkg-query", {"*": "ii  nvidia-utils-550\nrc  nvidia-driver-535\nii  libnvidia-compute-550"})


def no_docker(machine: Machine) -> None:
    (machine.folder / "bin" / "docker").unlink()


def no_integration(machine: Machine) -> None:
    machine.tool("docker", {"*": (1, "\nThe command 'docker' could not be found in this WSL 2 distro.\nWe recommend…")})


def stopped_engine(machine: Machine) -> None:
    text = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    machine.docker("", **{"version --format*": (1, text)})


def forbidden_engine(machine: Machine) -> None:
    text = "permission denied while trying to connect to the Docker daemon socket"
    machine.docker("", **{"version --format*": (1, text)})


def old_engine(machine: Machine) -> None:
    machine.docker("Docker Desktop", **{"version --format*": "19.03.15"})


def remote_engine(machine: Machine) -> None:
    machine.docker("Debian GNU/Linux 12", **{"context inspect*": "ssh://me@elsewhere"})


def remote_host_variable(machine: Machine) -> None:
    machine.variables["DOCKER_HOST"] = "tcp://10.0.0.9:2375"


def no_compose(machine: Machine) -> None:
    machine.docker("Docker Desktop", **{"compose version*": (1, "docker: 'compose' is not a docker command.")})


def no_toolkit(machine: Machine) -> None:
    machine.docker("Ubuntu 24.04.3 LTS")


def unconfigured_toolkit(machine: Machine) -> None:
    machine.docker("Ubuntu 24.04.3 LTS", **{"info --format*Runtimes*": '{"runc":{"path":"runc"}}'})
    machine.tool("nvidia-ctk", {"--version": "NVIDIA Container Toolkit CLI version 1.19.0"})


def unsafe_toolkit(machine: Machine) -> None:
    machine.docker("Ubuntu 24.04.3 LTS")
    machine.tool("nvidia-ctk", {"--version": "NVIDIA Container Toolkit CLI version 1.17.4"})


def no_systemd(machine: Machine) -> None:
    unsafe_toolkit(machine)


def old_compose(machine: Machine) -> None:
    machine.docker("Docker Desktop", **{"compose version*": "2.23.3"})


def no_gpu_in_containers(machine: Machine) -> None:
    text = "docker: Error response from daemon: could not select device driver nvidia with capabilities: [[gpu]]"
    machine.docker("Docker Desktop", **{DOCKER_RUN: (125, text)})


def containers_without_gpu(machine: Machine) -> None:
    machine.docker("Docker Desktop", **{DOCKER_RUN: "No devices found."})


def container_that_hangs(machine: Machine) -> None:
    machine.docker("Docker Desktop", **{DOCKER_RUN: (124, "")})


def on_windows(machine: Machine) -> None:
    machine.tool("findmnt", {"*": "9p"})


def crlf(machine: Machine) -> None:
    (machine.folder / "project" / "scripts" / "x.sh").write_bytes(b"#!/bin/sh\r\n")


def autocrlf(machine: Machine) -> None:
    machine.tool("git", {"*config core.autocrlf": "true"})


def crlf_for_the_image(machine: Machine) -> None:
    (machine.folder / "project" / "docker" / "solotune").write_bytes(b"#!/bin/sh\r\n")


def small_vm(machine: Machine) -> None:
    machine.memory(total=7, swap=2)


def no_swap(machine: Machine) -> None:
    machine.memory(total=16, swap=0)


def full_windows_disk(machine: Machine) -> None:
    machine.tool("df", {"*/windows": "Filesystem\n/dev/sdc 9 9 9000000 9% /", "*": "F\n/dev/sdc 9 9 1000000000 9% /"})


def nearly_full_disk(machine: Machine) -> None:
    machine.tool("df", {"*": f"Filesystem\n/dev/sdc 9 9 {30 * GIB_IN_KIB} 9% /"})


def small_shm(machine: Machine) -> None:
    machine.tool("df", {"*/shm": "Filesystem\nshm 9 9 65536 9% /", "*": "F\n/dev/sdc 9 9 1000000000 9% /"})


def clock_behind(machine: Machine) -> None:
    machine.clock(7200)


def clock_of_a_server(machine: Machine) -> None:
    machine.program("powershell.exe", "#!/bin/sh\nexit 1\n", at=POWERSHELL)
    machine.tool("curl", {"*": "HTTP/1.1 301 Moved\r\ndate: Wed, 01 Jan 2020 00:00:00 GMT\r"})


def old_python(machine: Machine) -> None:
    machine.tool("python3", {"*": "3.8.10"})


def no_invoke(machine: Machine) -> None:
    (machine.folder / "bin" / "invoke").unlink()


def invoke_off_path(machine: Machine) -> None:
    no_invoke(machine)
    (machine.folder / "home" / ".local" / "bin").mkdir(parents=True)
    machine.tool("invoke", {"--version": "Invoke 3.0.3"}, at="home/.local/bin")


def no_folders(machine: Machine) -> None:
    (machine.folder / "project" / "runs").rmdir()


CASES = [
    (wsl1, "wsl", "FAIL", "WSL 1", "wsl --set-version Debian 2"),
    (old_kernel, "wsl", "FAIL", "kernel 5.4.72", "wsl --update"),
    (old_wsl_release, "wsl-release", "FAIL", "WSL 2.0.9.0", "wsl --update"),
    (no_wsl_exe, "wsl-release", "warn", "unknown", "wsl --version"),
    (no_gpu, "gpu-device", "FAIL", "no ", "driver 580 or later in Windows"),
    (no_libcuda, "libcuda", "FAIL", "libcuda.so.1", "driver 580 or later in Windows"),
    (no_nvidia_smi, "nvidia-smi", "FAIL", "nvidia-smi", "driver 580 or later in Windows"),
    (blocked_gpu, "nvidia-smi", "FAIL", "blocked by the operating system", "wsl --update; wsl --shutdown"),
    (silent_gpu, "nvidia-smi", "FAIL", "no answer in 0.3 s", "update NVIDIA's driver"),
    (
        linux_driver,
        "linux-driver",
        "FAIL",
        "nvidia-utils-550 lib",
        "purge nvidia-utils-550 libnvidia-compute-550",
    ),
    (no_docker, "docker", "FAIL", "no docker command", "Docker Desktop"),
    (
        no_integration,
        "docker",
        "FAIL",
        "could not be found in this WSL 2 distro",
        "Resources › WSL integration",
    ),
    (stopped_engine, "docker-engine", "FAIL", "Cannot connect", "start Docker Desktop"),
    (forbidden_engine, "docker-engine", "FAIL", "permission denied", "usermod -aG docker"),
    (old_engine, "docker-engine", "FAIL", "19.03.15", "20.10 or later"),
    (remote_engine, "docker-context", "FAIL", "ssh://…", "docker context use default"),
    (remote_host_variable, "docker-context", "FAIL", "tcp://…", "unset DOCKER_HOST"),
    (no_compose, "compose", "FAIL", "not there", "update Docker Desktop"),
    (old_compose, "compose", "FAIL", "Compose 2.23.3", "needs version 2.24 or later"),
    (
        no_toolkit,
        "toolkit",
        "FAIL",
        "no nvidia-container-toolkit",
        "nvidia-ctk runtime configure --runtime=docker",
    ),
    (
        unconfigured_toolkit,
        "toolkit",
        "FAIL",
        "no nvidia runtime",
        "nvidia-ctk runtime configure --runtime=docker",
    ),
    (unsafe_toolkit, "toolkit", "warn", "1.17.4", "1.17.8"),
    (no_systemd, "systemd", "warn", "does not run", "systemd=true"),
    (no_gpu_in_containers, "gpu-container", "FAIL", "could not select device driver nvidia", "WSL 2 based engine"),
    (containers_without_gpu, "gpu-container", "FAIL", "No devices found.", "WSL 2 based engine"),
    (container_that_hangs, "gpu-container", "FAIL", "no answer in 60 s", "restart Docker Desktop"),
    (on_windows, "checkout", "warn", "folder of Windows (9p)", "cp -r . ~/solotune"),
    (crlf, "line-endings", "FAIL", "scripts/x.sh", r"sed -i 's/\r$//' scripts/x.sh"),
    (crlf_for_the_image, "line-endings", "FAIL", "docker/solotune", r"sed -i 's/\r$//' docker/solotune"),
    (autocrlf, "line-endings", "warn", "core.autocrlf", "git config core.autocrlf input"),
    (small_vm, "memory", "warn", "7.0 GiB, swap 2.0 GiB", "\n[wsl2]\nmemory=24GB\nswap=16GB"),
    (no_swap, "memory", "warn", "16.0 GiB, swap 0.0 GiB", "19 with swap"),
    (full_windows_disk, "disk", "FAIL", "8.6 GiB free at", "make room"),
    (nearly_full_disk, "disk", "warn", "30.0 GiB free", "make room"),
    (small_shm, "shm", "warn", "0.1 GiB", "mount -o remount"),
    (clock_behind, "clock", "FAIL", " s behind Windows", "sudo hwclock -s"),
    (clock_of_a_server, "clock", "FAIL", " s ahead of pypi.org", "sudo hwclock -s"),
    (old_python, "python", "FAIL", "Python 3.8.10", "3.10 or later"),
    (no_invoke, "invoke", "FAIL", "no invoke", "scripts/setup_wsl.sh --fix"),
    (invoke_off_path, "invoke", "warn", "~/.local/bin/invoke", "export PATH=~/.local/bin:$PATH"),
    (no_folders, "folders", "warn", "missing: runs/", "scripts/setup_wsl.sh --fix"),
]


@pytest.mark.parametrize(("change", "name", "status", "found", "fix"), CASES, ids=[case[0].__name__ for case in CASES])
def test_says_what_is_wrong_and_how_to_mend_it(desktop: Machine, change, name, status, found, fix) -> None:
    change(desktop)
    finding = desktop.findings()[name]
    assert finding.status == status
    assert found in finding.found
    assert fix in finding.fix


def test_every_check_but_those_that_cannot_fail_is_seen_failing() -> None:
    assert len({case[1] for case in CASES}) == 22  # `driver` has a test of its own above


def test_wsl1_does_not_also_blame_the_driver(desktop: Machine) -> None:
    wsl1(desktop)
    assert states(desktop.findings(), "FAIL") == {"wsl"}


def test_docker_that_is_not_integrated_is_told_once(desktop: Machine) -> None:
    no_integration(desktop)
    assert states(desktop.findings(), "FAIL") == {"docker"}


def test_without_an_image_no_container_is_tried_until_pull_allows_it(desktop: Machine) -> None:
    answers = {"image inspect*": (1, "No such image"), "pull --quiet nvidia/cuda*": (0, BASE_IMAGE)}
    desktop.docker("Docker Desktop", **answers)
    finding = desktop.findings()["gpu-container"]
    assert (finding.status, finding.fix) == ("skip", "invoke build first, or scripts/setup_wsl.sh --pull")
    assert desktop.findings("--pull")["gpu-container"].found == "NVIDIA GeForce RTX 4090 in nvidia/cuda:13"


def test_plain_linux_skips_wsl_and_still_looks_at_docker(linux: Machine) -> None:
    linux.docker("Debian GNU/Linux 12 (bookworm)", **{"version --format*": (1, "Cannot connect to the Docker daemon")})
    findings = linux.findings()
    assert {"wsl", "wsl-release", "gpu-device", "libcuda", "linux-driver", "systemd"} <= states(findings, "skip")
    assert "not WSL" in findings["wsl"].found
    assert states(findings, "FAIL") == {"nvidia-smi", "docker-engine"}
    assert "scripts/local.sh" in findings["nvidia-smi"].fix
    assert "systemctl start docker" in findings["docker-engine"].fix


def test_plain_linux_with_a_gpu_is_ready(linux: Machine) -> None:
    linux.tool("nvidia-smi", {"--query-gpu=*": "NVIDIA A, 24564, 580.65.06\nNVIDIA B, 8192, 580.65.06"})
    linux.tool("nvidia-ctk", {"--version": "NVIDIA Container Toolkit CLI version 1.19.0"})
    linux.docker("Debian GNU/Linux 12 (bookworm)")
    findings = linux.findings()
    assert states(findings, "FAIL") == set()
    assert findings["nvidia-smi"].found == "NVIDIA A, 24564 MiB, the first of 2 GPUs"


def test_a_checkout_in_windows_shows_no_user_name(desktop: Machine) -> None:
    on_windows(desktop)
    desktop.variables["SOLOTUNE_ROOT"] = "/mnt/c/Users/Jane Doe/solotune"
    assert desktop.findings()["checkout"].found.startswith("/mnt/c/Users/…/solotune is a folder of Windows")


@pytest.mark.parametrize("arguments", [(), ("--check",), ("--json",), ("--check", "--json"), ("-h",)])
def test_looking_writes_nothing_and_says_the_same_twice(desktop: Machine, arguments: tuple[str, ...]) -> None:
    no_invoke(desktop)
    no_folders(desktop)
    before = desktop.listing()
    first = desktop.run(*arguments)
    second = desktop.run(*arguments)
    assert desktop.listing() == before
    assert (first.stdout, first.stderr, first.returncode) == (second.stdout, second.stderr, second.returncode)
    assert first.stdout


def test_json_survives_quotes_backslashes_and_bytes_that_are_no_text(desktop: Machine) -> None:
    desktop.program("docker", "#!/bin/sh\nprintf 'C:\\\\x \"quoted\"\\t\\377\\033[1m\\n' >&2\nexit 1\n")
    assert desktop.findings()["docker"].found == 'C:\\x "quoted"[1m'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fixx",), "unknown argument: --fixx"),
        (("--check", "--fix"), "exclude each other"),
        (("x",), "unknown argument"),
    ],
)
def test_wrong_usage_exits_2(desktop: Machine, arguments: tuple[str, ...], message: str) -> None:
    answer = desktop.run(*arguments)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "usage:" in answer.stderr
    assert not answer.stdout


def fixable(machine: Machine) -> None:
    """Nothing there that --fix makes; uv and its bootstrap are stubs that note what they were asked."""
    no_invoke(machine)
    shutil.rmtree(machine.folder / "project" / "data")
    no_folders(machine)
    (machine.folder / "project" / "uv.lock").write_text(UV_LOCK, encoding="utf-8")
    uv = machine.folder / "uv"
    machine.tool("python3", {"*platform*": "3.12.3", "*bootstrap_uv.py": str(uv)})
    machine.tool("invoke.stub", {"--version": "Invoke 3.0.3"}, at=".")
    venv = machine.folder / "home/.local/share/solotune/invoke"
    machine.program(
        "uv",
        "#!/bin/sh\n"
        'echo "$*" >> "$HOME/asked"\n'
        'case "$1" in\n'
        f"venv) mkdir -p {venv}/bin ;;\n"
        f'pip) cat >> "$HOME/asked" && ln {machine.folder}/invoke.stub {venv}/bin/invoke ;;\n'
        "esac\n",
        at=".",
    )


UV_LOCK = """\
[[package]]
name = "idna"
version = "3.20"
wheels = [
    { url = "https://index/idna-3.20-py3-none-any.whl", hash = "sha256:00" },
]

[[package]]
name = "invoke"
version = "3.0.3"
sdist = { url = "https://index/invoke-3.0.3.tar.gz", hash = "sha256:aa" }
wheels = [
    { url = "https://index/invoke-3.0.3-py3-none-any.whl", hash = "sha256:bb", size = 1 },
]

[[package]]
name = "jinja2"
version = "3.1.6"
wheels = [
    { url = "https://index/jinja2-3.1.6-py3-none-any.whl", hash = "sha256:cc" },
]
"""


def test_fix_makes_invoke_and_the_folders_and_nothing_the_second_time(desktop: Machine) -> None:
    fixable(desktop)
    findings = desktop.findings("--fix")
    home = desktop.folder / "home"
    asked = (home / "asked").read_text()
    assert asked.splitlines()[-1] == "invoke==3.0.3 --hash=sha256:bb"
    assert "--require-hashes" in asked
    assert (home / ".local/bin/invoke").resolve() == home / ".local/share/solotune/invoke/bin/invoke"
    assert os.access(home / ".local/bin/invoke", os.X_OK)
    assert (desktop.folder / "project/data/splits").is_dir()
    assert (desktop.folder / "project/runs").is_dir()
    assert findings["folders"].status == "ok"
    assert findings["invoke"].status == "warn"  # not in this shell's PATH yet

    before = desktop.listing()
    again = desktop.run("--fix")
    assert desktop.listing() == before
    assert not again.stderr
    desktop.variables["PATH"] = f"{desktop.folder}/bin:{home}/.local/bin"
    assert desktop.findings()["invoke"].status == "ok"


def test_a_fix_that_fails_is_told_and_the_checks_still_run(desktop: Machine) -> None:
    fixable(desktop)
    desktop.tool("python3", {"*platform*": "3.12.3", "*bootstrap_uv.py": (1, "bootstrap_uv: cannot reach pypi.org")})
    answer = desktop.run("--fix")
    assert "cannot reach pypi.org" in answer.stderr
    assert "fix_invoke did not succeed" in answer.stderr
    assert "FAIL  invoke — no invoke" in answer.stdout
    assert (desktop.folder / "project/runs").is_dir()
    assert not (desktop.folder / "home/.local").exists()
    assert answer.returncode == 1


def test_fix_leaves_an_installed_invoke_alone(desktop: Machine) -> None:
    before = desktop.listing()
    assert desktop.run("--fix").returncode == 0
    assert desktop.listing() == before
