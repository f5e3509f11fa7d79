"""Messages of Docker, CUDA and libraries whose cause is known: what happened, and the command or edit that helps.

docker/host imports it with the host's Python, to explain what Docker says: the standard library only,
nothing of solotune, Python 3.10.
"""

import re
from dataclasses import dataclass

_DRIVERS = "https://www.nvidia.com/drivers"
WSLCONFIG = (
    "write into %UserProfile%\\.wslconfig of Windows (a PC with 32 GB): [wsl2] memory=24GB swap=16GB, "
    "each on its own line; then in PowerShell `wsl --shutdown`, and wait 8 seconds"
)
_TOOLKIT = (
    "install nvidia-container-toolkit, then `sudo nvidia-ctk runtime configure --runtime=docker && "
    "sudo systemctl restart docker`"
)


@dataclass(frozen=True)
class Explanation:
    """Why something failed, in plain words, and the command or edit that solves it."""

    name: str
    cause: str
    fix: str

    def say(self) -> str:
        """Two lines for people."""
        return f"{self.cause}\n{self.fix}"


def explain(text: str, exit_code: int | None = None) -> Explanation | None:
    """What is known about an error.

    Args:
        text: what was printed, or the exception's type and message.
        exit_code: of the process, where there is one; 128 + n after signal n, as a shell and Docker tell it.
    """
    for row in _ROWS:
        if exit_code in row.exit_codes or any(re.search(pattern, text) for pattern in row.patterns):
            return Explanation(row.name, row.cause, row.fix)
    return None


@dataclass(frozen=True)
class _Row:
    name: str
    patterns: tuple[str, ...]
    cause: str
    fix: str
    exit_codes: tuple[int, ...] = ()


# The first row that fits is told, so the special stand before the general. Threads are on GitHub.
_ROWS = (
    # --- Docker itself
    _Row(
        "docker-integration",  # microsoft/WSL#9949, docker/for-win#13088
        (r"The command 'docker' could not be found in this WSL",),
        "Docker Desktop isn't turned on for this distribution",
        "Docker Desktop: turn on Settings > Resources > WSL integration for it. "
        "Native engine: https://docs.docker.com/engine/install/",
    ),
    _Row(
        "docker-credentials",  # docker/for-win#12273, docker/compose-cli#1181
        (r"docker-credential-desktop",),
        "Docker asks a program of Windows for credentials, and WSL doesn't find it",
        "Remove the line with credsStore from ~/.docker/config.json",
    ),
    _Row(
        "docker-permission",
        (
            r"permission denied while trying to connect to the [Dd]ocker",
            r"docker\.sock: connect: permission denied",
        ),
        "this user may not talk to Docker's engine",
        "Native engine: `sudo usermod -aG docker $USER`, then log in again. "
        "Docker Desktop: turn Settings > Resources > WSL integration off and on for this distribution",
    ),
    _Row(
        "docker-down",
        (
            r"Cannot connect to the Docker daemon",
            r"failed to connect to the docker API",
            r"error during connect: ",
            r"docker\.sock: connect: (no such file or directory|connection refused)",
        ),
        "Docker's engine doesn't run",
        "Docker Desktop: start it in Windows and wait until it says that the engine runs. "
        "Native engine: `sudo systemctl start docker` (without systemd: `sudo service docker start`)",
    ),
    _Row(
        "docker-no-gpu",  # docker/for-win#7581, docker/cli#2425; with Docker 28 and later ShaneIsrael/fireshare#689
        (r"could not select device driver \S+ with capabilities: \[\[gpu", r"failed to discover GPU vendor from CDI"),
        "Docker's engine has no GPU to give to a container",
        "Docker Desktop: `docker context use default`, in PowerShell `wsl --update`, and update Docker Desktop. "
        f"Native engine: {_TOOLKIT}. No GPU at all: `--set device=cpu` runs small models",
    ),
    _Row(
        "docker-cdi",  # docker/desktop-feedback#501, NVIDIA/NemoClaw#5512
        (r"unresolvable CDI devices", r"CDI device injection failed", r"could not select device driver \S*cdi"),
        "the GPU was asked for as a CDI device, and this engine knows none",
        "Docker Desktop has no CDI: start stages with `invoke TASK`, whose compose.yaml asks in the way that works. "
        "Native engine: `sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`",
    ),
    _Row(
        "docker-runtime",  # docker/for-win#13907, exadel-inc/CompreFace#1103
        (r"(unknown or invalid runtime name|Unknown runtime specified):? nvidia",),
        "`nvidia` was asked for as a runtime, and this engine has none of that name",
        f"Docker Desktop: remove `runtime: nvidia` or `--runtime nvidia`; it needs neither. Native engine: {_TOOLKIT}",
    ),
    _Row(
        "wsl-no-adapter",  # NVIDIA/nvidia-container-toolkit#155
        (r"WSL environment detected but no adapters were found",),
        "Windows hands this WSL no NVIDIA GPU: WSL 1, no NVIDIA card, or a very old driver",
        f"Install NVIDIA's driver R580 or newer in Windows ({_DRIVERS}), then in PowerShell: `wsl --list --verbose` "
        "(the version has to be 2), `wsl --update`, `wsl --shutdown`",
    ),
    _Row(
        "driver-too-old",  # SyneRBI/PETRIC2#27, NVIDIA/nvidia-container-toolkit#152; in torch pytorch/pytorch#162531
        (
            r"unsatisfied condition: cuda\s*>=",
            r"NVIDIA driver on your system is too old",
            r"CUDA driver version is insufficient for CUDA runtime version",
        ),
        "the NVIDIA driver is older than R580, which CUDA 13 needs",
        f"Windows: install R580 or newer in Windows ({_DRIVERS}), nothing in the distribution, then in PowerShell "
        "`wsl --shutdown`. Linux: `sudo ubuntu-drivers install`, then restart",
    ),
    _Row(
        "nvml-blocked",  # microsoft/WSL#9962, #9938, #14339
        (r"GPU access blocked by the operating system",),
        "the driver of Windows and WSL don't fit together",
        f"Update NVIDIA's driver in Windows ({_DRIVERS}), then in PowerShell: `wsl --update`, `wsl --shutdown`",
    ),
    _Row(
        "nvml-lost",  # NVIDIA/nvidia-container-toolkit#48
        (r"Failed to initialize NVML: Unknown Error",),
        "a running container lost its GPU: systemd was reloaded on the host",
        "Start the command again, which makes a new container. Native engine, for good: put "
        '"exec-opts": ["native.cgroupdriver=cgroupfs"] into /etc/docker/daemon.json. '
        "Docker Desktop: restart it",
    ),
    _Row(
        "docker-zero-devices",  # docker/for-win#13870, #13100
        (r"only 0 Devices available",),
        "the container got no GPU, as after some updates of Docker Desktop",
        "Docker Desktop: update it (or go back one version), then in PowerShell `wsl --shutdown`. "
        f"Native engine: {_TOOLKIT}",
    ),
    _Row(
        "mount-missing",
        (r"bind source path does not exist",),
        "a folder that the container mounts isn't there",
        "`scripts/setup_wsl.sh --fix` makes runs/ and data/splits/; another one that is named above: `mkdir -p` it",
    ),
    _Row(
        "image-missing",
        (
            r"[Pp]ull access denied for \S*solotune",
            r"[Nn]o such image: \S*solotune",
            r"Unable to find image '\S*solotune",
            r"solotune\S* .*(pull access denied|not found: manifest unknown)",
        ),
        "the image isn't built yet; it comes from no registry",
        "Build it: `invoke build`",
    ),
    _Row(
        "old-builder",
        (r"the --mount option requires BuildKit", r"buildx component is missing"),
        "Docker has no BuildKit, with which the image is built",
        "Docker Desktop: update it. Native engine: `sudo apt-get install docker-buildx` (docker-buildx-plugin from "
        "Docker's own packages)",
    ),
    _Row(
        "no-compose",
        (
            r"unknown (shorthand )?flag: .*(--progress|'f' in -f)",
            r"'compose' is not a docker command",
            r"unknown command: docker compose",
        ),
        "Docker has no Compose, which starts the container",
        "Docker Desktop: update it. Native engine: `sudo apt-get install docker-compose-v2` (docker-compose-plugin "
        "from Docker's own packages)",
    ),
    _Row(
        "private-ca",
        (r"x509: certificate signed by unknown authority", r"invalid peer certificate: UnknownIssuer"),
        "this network has a certificate authority of its own, which isn't known where the connection was made",
        "Stages and build: `export EXTRA_CA_FILE=/path/to/bundle.pem` (the public roots and yours), then again. Docker "
        "itself, pulling the base: give it to the engine (https://docs.docker.com/engine/security/certificates/)",
    ),
    _Row(
        "base-image",
        (
            r"failed to resolve source metadata for \S*(nvidia|cuda)",
            r"failed to solve: \S*cuda\S*: .*(not found|manifest unknown|i/o timeout|no such host)",
            r"dial tcp: lookup \S*registry",
        ),
        "the base image doesn't come from its registry: no network, or the digest is no longer there",
        "Check the network and Docker's proxy; `docker buildx imagetools inspect nvidia/cuda:13.0.3-base-ubuntu24.04` "
        "shows today's digest; a mirror: `invoke build --base-image MIRROR/cuda@sha256:…`",
    ),
    _Row(
        "name-taken",
        (r"The container name \S+ is already in use", r"is marked for removal and cannot be started"),
        "a container of that name is there already: a stage that was started elsewhere, or left behind",
        "`docker compose ps --all` shows it; `docker compose stop` saves and stops it, `docker compose rm` removes it",
    ),
    _Row(
        "port-taken",
        (r"port is already allocated", r"[Aa]ddress already in use", r"Only one usage of each socket address"),
        "another program uses that port",
        "Stop it (`docker ps` names containers, `docker stop NAME` ends one), "
        "or take another one: `invoke tensorboard --port 6007`",
    ),
    _Row(
        "line-endings",  # HKUDS/nanobot#2883
        (
            r"\b(bash|sh|python3?)(\\r|\r|\^M)['’]?:",
            r"\$'\\r': command not found",
            r"exec \S+\.sh\"?: no such file or directory",
        ),
        "a script has the line ends of Windows (CRLF), which Linux doesn't run",
        "`git config core.autocrlf input`, then `sed -i 's/\\r$//' scripts/*.sh docker/*.sh docker/solotune tasks.py`",
    ),
    _Row(
        "clock",  # microsoft/WSL#4114, #10006, #8204
        (r"Release file .*is not valid yet", r"certificate is not yet valid"),
        "this machine's clock is behind, as WSL's is after the PC slept",
        "`sudo hwclock -s`, or in PowerShell `wsl --shutdown`. Linux: `sudo timedatectl set-ntp true`",
    ),
    # --- the GPU in use
    _Row(
        "paged-optimizer",  # bitsandbytes-foundation/bitsandbytes#726, #959, #470; InternLM/xtuner#319
        (r"at line \d+ (in|of) file \S*pythonInterface", r"Error invalid device ordinal"),
        "a paged optimizer uses managed memory, which CUDA on WSL supports in part only",
        "Choose another one: `--set training.optim=adamw_torch_fused`",
    ),
    _Row(
        "expandable-segments",  # pytorch/pytorch#192330, noonghunna/club-3090#84, microsoft/WSL#41176
        (r"CUDA driver error: (unknown error|device not ready)", r"dxgkio_make_resident: Ioctl failed"),
        "torch's expandable segments fail on WSL with NVIDIA drivers before 616.92",
        "`unset PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF` (the container has neither), or update NVIDIA's driver "
        "in Windows",
    ),
    _Row(
        "gpu-memory",
        (r"CUDA out of memory", r"\bOutOfMemoryError\b"),
        "the GPU's memory is full",
        "`invoke plan --config CONFIG` says what needs how much; lower training.per_device_train_batch_size or "
        "training.max_length, or close what else uses the GPU (`nvidia-smi`; in Windows Task Manager > Performance > "
        "GPU)",
    ),
    _Row(
        "pinned-memory",  # microsoft/WSL#14078, #8447
        (r"CUDA (driver )?error: out of memory",),
        "the NVIDIA driver found no memory; on WSL that is often pinned host memory, of which there is little",
        "Close what else uses the GPU (`nvidia-smi`; in Windows Task Manager > Performance > GPU); in PowerShell "
        "`wsl --shutdown` gives pinned memory back. Code of your own: pin_memory=False",
    ),
    _Row(
        "gpu-too-old",
        (r"no kernel image is available for execution",),
        "CUDA 13 has no code for this GPU: it begins with the RTX 20 series",
        "Use a newer card, or `--set device=cpu` for a small model",
    ),
    _Row(
        "gpu-not-seen",
        (
            r"Found no NVIDIA driver on your system",
            r"No CUDA GPUs are available",
            r"no CUDA-capable device is detected",
            r"CUDA unknown error - this may be due to an incorrectly set up environment",
        ),
        "this process sees no GPU that works",
        "`scripts/setup_wsl.sh` says why. WSL: in PowerShell `wsl --shutdown`; Linux: restart after a driver update",
    ),
    _Row(
        "libcuda",
        (r"libcuda\.so cannot found", r"libcuda\.so(\.1)?: cannot open shared object file"),
        "the driver's library libcuda isn't found",
        "WSL: `export TRITON_LIBCUDA_PATH=/usr/lib/wsl/lib LD_LIBRARY_PATH=/usr/lib/wsl/lib`. "
        "Linux: `sudo ldconfig` after installing the driver. In a container: start it with `invoke TASK`",
    ),
    _Row(
        "compiler",
        (
            r"Failed to find C compiler",
            r"Python\.h: No such file or directory",
            r"(cuda_utils|triton_launcher)\.c\b.*returned non-zero exit status",
        ),
        "Triton compiles a little C at first use, and there is no compiler or no Python.h",
        "In the container: `invoke build`. Outside: `sudo apt-get install gcc libc6-dev python3-dev`",
    ),
    # --- memory, disk and folders
    _Row(
        "shared-memory",  # pytorch/pytorch#5040
        (r"killed by signal: Bus error", r"out of shared memory", r"unable to allocate shared memory"),
        "shared memory (/dev/shm) is too small",
        "Container: start it with `invoke TASK`, whose compose.yaml sets shm_size: 8gb. "
        "Outside: `sudo mount -o remount,size=4G /dev/shm`",
        exit_codes=(135,),
    ),
    _Row(
        "memory",  # Microsoft's page on .wslconfig, docker/for-win#13939
        (
            r"(?m)^Killed\s*$",
            r"\b\d+ Killed\b",
            r"Killed process \d+",
            r"is killed by signal: Killed",
            r"Cannot allocate memory",
            r"DefaultCPUAllocator: (can't|not enough)",
            r"\bMemoryError\b",
        ),
        "the system ended the process, mostly because memory ran out (the PC's, not the GPU's); "
        "WSL has half of the PC's unless told otherwise",
        f"Close other programs, or give more. WSL: {WSLCONFIG}. Linux: add swap",
        exit_codes=(137,),
    ),
    _Row(
        "not-deterministic",
        (r"\S+ does not have a deterministic implementation",),
        "an operation of this model gives other bits each time, and determinism: strict runs none such in silence",
        "`--set determinism=seeded` runs it; the run's manifest then says that the same adapter twice isn't promised",
    ),
    _Row(
        "crash",
        (r"Segmentation fault",),
        "a library crashed inside; mostly driver and library don't fit, or memory is faulty",
        "`invoke doctor` checks each; update NVIDIA's driver; then run it again and report the "
        "lines below `Fatal Python error`",
        exit_codes=(139,),
    ),
    _Row(
        "disk-full",  # microsoft/WSL#4699, docker/for-win#244; torch and safetensors name the cause in their own words
        (r"[Nn]o space left on device", r"os error 28\b", r"file write failed"),
        "the disk is full; nothing half-written was kept",
        "Free some space (`docker system prune` removes what Docker no longer uses; `df -h . /mnt/c` shows both "
        "disks); then run it again (a training: `invoke train --resume latest`)",
    ),
    _Row(
        "disk-quota",
        (r"Disk quota exceeded", r"os error 122\b"),
        "the disk quota is used up; nothing half-written was kept",
        "Free some space, then run it again (a training: `invoke train --resume latest`)",
    ),
    _Row(
        "disk-fault",
        (r"Input/output error", r"os error 5\b"),
        "the disk reports an error; nothing half-written was kept",
        "Look at `sudo dmesg`. WSL: in PowerShell `wsl --shutdown`, and check the disk of Windows",
    ),
    _Row(
        "mount-gone",
        (
            r"Stale file handle",
            r"Transport endpoint is not connected",
            r"\[Errno 19\] No such device",
            r"FileNotFoundError: .*'(\./)?(runs|data|models)/",
        ),
        "a file or folder that was there is gone: its mount vanished, or somebody deleted it",
        "`findmnt -T runs` and `ls runs data models` say what is there; then run it again (a training: "
        "`invoke train --resume latest`)",
    ),
    _Row(
        "not-a-folder",
        (r"\[Errno 20\] Not a directory", r"os error 20\b"),
        "a file stands where a folder is needed",
        "Move it away",
    ),
    _Row(
        "read-only",
        (r"[Rr]ead-only file system", r"os error 30\b"),
        "this file system is read-only",
        "In the container only runs/, data/splits/ and the cache can be written (models/ by fetch). Outside: "
        "`findmnt -T .` tells how it is mounted; WSL mounts a faulty disk so: in PowerShell `wsl --shutdown`",
    ),
    _Row(
        "cache-permission",
        (r"Permission denied.*/cache\b", r"/cache\b.*Permission denied"),
        "no permission to write the cache: its volume or the image was made for another user",
        "It holds nothing but caches: `invoke build`, then `docker compose down --volumes`",
    ),
    _Row(
        "permission",
        (r"Permission denied", r"os error 13\b"),
        "no permission: a folder belongs to another user, such as root, as whom Docker makes what is missing",
        '`ls -ld` says whose it is; give runs/ and data/splits/ back: `sudo chown -R "$(id -u):$(id -g)" '
        "runs data/splits models`",
    ),
    _Row(
        "user-without-name",
        (r"getpwuid\(\): uid not found",),
        "this user id has no name in the container",
        "Start it with `invoke TASK`, whose compose.yaml sets a name",
    ),
    # --- harmless, so last
    _Row(
        "ldconfig",  # microsoft/WSL#5548, #5663, #11229
        (r"libcuda\.so\.1 is not a symbolic link",),
        "a harmless warning of WSL's ldconfig: it isn't what failed",
        "Leave that file as it is",
    ),
)
