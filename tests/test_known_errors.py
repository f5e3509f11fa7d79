"""The table of known errors: each message finds its row, nothing else does, and people see it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from solotune import cli, known_errors
from solotune.known_errors import explain

# As their sources quote them; the threads are in the table.
SAMPLES = {
    "no-compose": [
        "unknown flag: --progress",
        "docker: 'compose' is not a docker command.",
        "docker: unknown command: docker compose",
    ],
    "private-ca": [
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "invalid peer certificate: UnknownIssuer",
    ],
    "base-image": [
        "failed to resolve source metadata for docker.io/nvidia/cuda:13.0.3-base-ubuntu24.04",
        "failed to solve: docker.io/nvidia/cuda:13.0.3-base: not found",
        "dial tcp: lookup registry-1.docker.io on 127.0.0.53:53: no such host",
    ],
    "name-taken": [
        'Conflict. The container name "/solotune-1-gpu-1" is already in use by container "ab". You have to remove',
        "container is marked for removal and cannot be started",
    ],
    "docker-integration": [
        "The command 'docker' could not be found in this WSL 2 distro.\nWe recommend to activate the WSL integration",
    ],
    "docker-credentials": [
        'error getting credentials - err: exec: "docker-credential-desktop.exe": executable file not found in $PATH',
    ],
    "docker-permission": [
        "Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get",
        "permission denied while trying to connect to the docker API at unix:///var/run/docker.sock",
        'unable to get image: Get "http://x/v1.51/info": dial unix /run/user/docker.sock: connect: permission denied',
    ],
    "docker-down": [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct",
        "dial unix /var/run/docker.sock: connect: no such file or directory",
        'error during connect: Get "http://docker.example.com/v1.24/info": EOF',
    ],
    "docker-no-gpu": [
        'Error response from daemon: could not select device driver "nvidia" with capabilities: [[gpu]]',
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
        "failed to discover GPU vendor from CDI: no known GPU vendor found",
    ],
    "docker-cdi": [
        "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
        'docker: Error response from daemon: could not select device driver "cdi" with capabilities: []',
    ],
    "docker-runtime": [
        "Error response from daemon: unknown or invalid runtime name: nvidia",
        "docker: Error response from daemon: Unknown runtime specified nvidia.",
    ],
    "wsl-no-adapter": [
        "nvidia-container-cli: initialization error: WSL environment detected but no adapters were found: unknown",
    ],
    "driver-too-old": [
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update your driver to",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update your GPU",
        "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
    ],
    "nvml-blocked": ["Failed to initialize NVML: GPU access blocked by the operating system"],
    "nvml-lost": ["Failed to initialize NVML: Unknown Error"],
    "docker-zero-devices": ["Error: only 0 Devices available, 1 requested.  Exiting."],
    "mount-missing": [
        'Error response from daemon: invalid mount config for type "bind": bind source path does not exist: /x/runs',
    ],
    "image-missing": [
        "Error response from daemon: No such image: solotune:latest",
        "pull access denied for solotune, repository does not exist or may require 'docker login'",
        "Unable to find image 'solotune:latest' locally",
        'failed to resolve reference "docker.io/library/solotune:latest": pull access denied, repository does',
    ],
    "old-builder": [
        "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/",
        "ERROR: BuildKit is enabled but the buildx component is missing or broken.",
    ],
    "port-taken": [
        "Bind for 127.0.0.1:6006 failed: port is already allocated",
        "OSError: [Errno 98] Address already in use",
        "listen tcp 127.0.0.1:6006: bind: address already in use",
        "ports are not available: exposing port TCP 127.0.0.1:6006: Only one usage of each socket address is permitted",
    ],
    "line-endings": [
        "/usr/bin/env: ‘bash\\r’: No such file or directory",
        "/usr/bin/env: 'python3\r': No such file or directory",
        "bash: scripts/setup_wsl.sh: /bin/bash^M: bad interpreter: No such file or directory",
        "scripts/local.sh: line 9: $'\\r': command not found",
        "exec /app/entrypoint.sh: no such file or directory",
    ],
    "clock": [
        "E: Release file for http://example.com/dists/noble/InRelease is not valid yet (invalid for another 5h 3min).",
        "x509: certificate has expired or is not yet valid: certificate is not yet valid",
    ],
    "paged-optimizer": [
        "Error out of memory at line 380 in file /mmfs1/gscratch/bitsandbytes/csrc/pythonInterface.c",
        "Error invalid device ordinal at line 359 in file /x/csrc/pythonInterface.c",
    ],
    "expandable-segments": [
        "RuntimeError: CUDA driver error: unknown error",
        "RuntimeError: CUDA driver error: device not ready",
        "misc dxg: dxgk: dxgkio_make_resident: Ioctl failed: -12",
    ],
    "gpu-memory": [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.99 GiB",
        "torch.OutOfMemoryError: Allocation on device 0",
    ],
    "pinned-memory": ["AcceleratorError: CUDA error: out of memory", "CUDA driver error: out of memory"],
    "gpu-too-old": ["RuntimeError: CUDA error: no kernel image is available for execution on the device"],
    "gpu-not-seen": [
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "RuntimeError: No CUDA GPUs are available",
        "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env",
        "CUDA error: no CUDA-capable device is detected",
    ],
    "libcuda": [
        "AssertionError: libcuda.so cannot found!\nPlease make sure GPU is set up",
        "OSError: libcuda.so.1: cannot open shared object file: No such file or directory",
    ],
    "compiler": [
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set triton.knobs",
        "main.c:3:10: fatal error: Python.h: No such file or directory",
        "CalledProcessError: Command '['/usr/bin/gcc', '/tmp/x/cuda_utils.c', '-O3']' returned non-zero exit status 1.",
    ],
    "shared-memory": [
        "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's",
        "It is possible that dataloader's workers are out of shared memory. Please try to raise your",
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_9_1>: No space left on device (28)",
    ],
    "memory": [
        "Killed",
        "train: some line\nKilled\n",
        "scripts/x.sh: line 3:  1234 Killed                  python train.py",
        "Out of memory: Killed process 77 (python) total-vm:1kB",
        "DataLoader worker (pid 3) is killed by signal: Killed.",
        "OSError: [Errno 12] Cannot allocate memory",
        "MemoryError: ",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you",
    ],
    "not-deterministic": [
        "RuntimeError: cumsum_cuda_kernel does not have a deterministic implementation, but you set 'torch.use_determi",
    ],
    "crash": ["Fatal Python error: Segmentation fault"],
    "disk-full": [
        "OSError: [Errno 28] No space left on device: 'runs/x'",
        "failed to register layer: write /venv/lib/x.so: no space left on device",
        "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
        "RuntimeError: [enforce fail] . PytorchStreamWriter failed writing file data/3: file write failed",
    ],
    "disk-quota": ["OSError: [Errno 122] Disk quota exceeded: 'runs/x'", "I/O error: x (os error 122)"],
    "disk-fault": ["OSError: [Errno 5] Input/output error", "I/O error: x (os error 5)"],
    "mount-gone": [
        "OSError: [Errno 116] Stale file handle: 'runs/x'",
        "OSError: [Errno 107] Transport endpoint is not connected: 'runs/x'",
        "OSError: [Errno 19] No such device: 'runs/x'",
        "FileNotFoundError: [Errno 2] No such file or directory: 'runs/x/.staged-predictions.jsonl'",
    ],
    "not-a-folder": ["NotADirectoryError: [Errno 20] Not a directory: 'runs/x'", "I/O error: x (os error 20)"],
    "read-only": [
        "OSError: [Errno 30] Read-only file system: '/app/models/x'",
        "mkdir /app/x: read-only file system",
        "SafetensorError: Error while serializing: I/O error: x (os error 30)",
    ],
    "cache-permission": [
        "PermissionError: [Errno 13] Permission denied: '/cache/triton/ab12'",
        "mkdir: cannot create directory '/cache/huggingface': Permission denied",
    ],
    "permission": [
        "PermissionError: [Errno 13] Permission denied: 'runs/20260101-000000-x-abcdef'",
        "SafetensorError: Error while serializing: I/O error: Permission denied (os error 13)",
    ],
    "user-without-name": ["KeyError: 'getpwuid(): uid not found: 4321'"],
    "ldconfig": ["/sbin/ldconfig.real: /usr/lib/wsl/lib/libcuda.so.1 is not a symbolic link"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SAMPLES.items() for text in texts])
def test_each_message_finds_its_row_and_not_one_before_it(name: str, text: str) -> None:
    for told in (text, f"Container solotune-gpu-run Creating\n{text}\nand more\n"):
        found = explain(told)
        assert found is not None
        assert found.name == name


def test_every_row_has_a_message_in_this_file_and_every_pattern_is_met_by_one() -> None:
    rows = {row.name: row for row in known_errors._ROWS}
    assert len(rows) == len(known_errors._ROWS)
    assert rows.keys() == SAMPLES.keys()
    unmet = {
        (name, pattern)
        for name, row in rows.items()
        for pattern in row.patterns
        if not any(re.search(pattern, text) for text in SAMPLES[name])
    }
    assert not unmet


@pytest.mark.parametrize(
    "text",
    [
        "",
        "step 12: loss 0.31, 2,329 tokens/s, memory 7.2 GiB",
        "wrote data/splits: 900 train, 100 val, 100 test rows; disk 40 GiB free",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)",
        "FileNotFoundError: [Errno 2] No such file or directory: 'configs/none.yaml'",
        "Killed two birds with one stone",
        "downloading 45%\rdownloading 46%\rfinish\r\nPush\r",
        "error: pull access denied for nvidia/cuda, repository does not exist",
        "the adapter runs in memory; permission to go on was given; no device was cached",
        "Warning: ldconfig skipped libfoo.so.1",
        "exit code 137 is what a shell says after signal 9",
    ],
)
def test_harmless_text_is_not_explained(text: str) -> None:
    assert explain(text) is None
    assert explain(text, 0) is None
    assert explain(text, 1) is None


@pytest.mark.parametrize(("code", "name"), [(137, "memory"), (139, "crash"), (135, "shared-memory")])
def test_an_exit_code_alone_tells_what_a_signal_meant(code: int, name: str) -> None:
    found = explain("", code)
    assert found is not None
    assert found.name == name


def test_what_was_said_comes_before_the_exit_code_and_both_before_a_harmless_warning() -> None:
    warning = SAMPLES["ldconfig"][0]
    assert explain("CUDA out of memory", 137).name == "gpu-memory"  # type: ignore[union-attr]
    assert explain(warning, 137).name == "memory"  # type: ignore[union-attr]
    assert explain(f"{warning}\nNo CUDA GPUs are available", 1).name == "gpu-not-seen"  # type: ignore[union-attr]


def test_memory_comes_with_the_text_for_wslconfig() -> None:
    found = explain("", 137)
    assert found is not None
    for words in (r"%UserProfile%\.wslconfig", "[wsl2] memory=24GB swap=16GB", "wsl --shutdown", "8 seconds"):
        assert words in found.fix


def test_every_fix_names_something_to_do_and_docker_rows_name_both_engines() -> None:
    for row in known_errors._ROWS:
        assert row.cause[0].islower() or row.cause.startswith(("CUDA", "Docker", "Windows", "Triton", "`")), row.name
        assert not row.cause.endswith(".")
        assert not row.fix.endswith(".")
        assert len(row.cause) + len(row.fix) < 420, row.name
        if row.name.startswith("docker-") and row.name != "docker-credentials":
            assert "Docker Desktop" in row.fix, row.name
            assert "Native engine" in row.fix, row.name


def test_an_explanation_is_two_lines() -> None:
    found = explain("No such image: solotune:latest")
    assert found is not None
    assert found.say().splitlines() == [found.cause, found.fix]
    assert "`invoke build`" in found.fix


def test_the_hosts_python_can_load_it_by_its_path_alone() -> None:
    path = Path(known_errors.__file__)
    ast.parse(path.read_text(), feature_version=(3, 10))
    code = (
        "import importlib.util, sys\n"
        "before = set(sys.modules)\n"
        f"spec = importlib.util.spec_from_file_location('known_errors', {str(path)!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.explain('No such image: solotune:latest').say())\n"
        "assert 'solotune' not in sys.modules\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert roots <= set(sys.stdlib_module_names), roots"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "invoke build" in done.stdout


# --- where people see it


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from solotune.stages import runs

    def fail() -> None:
        raise error

    monkeypatch.setattr(runs, "run", fail)


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (
            RuntimeError("CUDA driver error: unknown error\nmore"),
            [
                "error: RuntimeError: CUDA driver error: unknown error",
                "  torch's expandable segments",
                "  `unset PYTORCH",
            ],
        ),
        (
            PermissionError(13, "Permission denied", "runs/x"),
            ["error: runs/x: no permission: a folder belongs to another", "  `ls -ld` says whose it is"],
        ),
        (
            OSError(28, "No space left on device"),
            ["error: OSError: [Errno 28]", "  the disk is full", "  Free some space"],
        ),
        (NotADirectoryError(20, "Not a directory", "runs"), ["error: runs: a file stands where", "  Move it away"]),
        (MemoryError(), ["error: MemoryError: no message", "  the system ended", "  Close other programs"]),
    ],
)
def test_a_known_error_of_the_machine_is_explained_and_is_no_fault_of_ours(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    lines: list[str],
) -> None:
    fail_with(monkeypatch, error)
    assert cli.main(["runs"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(lines)
    for line, start in zip(printed, lines, strict=True):
        assert line.startswith(start)


def test_an_unknown_error_stays_a_fault_of_ours(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ValueError("oops"))
    assert cli.main(["runs"]) == 1
    assert "fault in solotune" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_known_error_too(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, RuntimeError("CUDA out of memory"))
    with pytest.raises(RuntimeError):
        cli.main(["runs", "--debug"])
