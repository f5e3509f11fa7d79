#!/usr/bin/env bats
# shellcheck disable=SC2016,SC2030,SC2031,SC2034,SC2154 # messages with $; what helper.bash and bats set
# setup_wsl.sh on machines that look like a WSL2 Ubuntu: what it says of each state, word for word, and that it writes
# nothing unless asked. Needs root, and:
#
#     tests/wsl/make_rootfs.sh /tmp/rootfs
#     SOLOTUNE_ROOTFS=/tmp/rootfs bats --timing tests/wsl

bats_require_minimum_version 1.5.0
load helper

WINDOWS_DRIVER="install NVIDIA's driver 580 or later in Windows"
UPDATE='in PowerShell: wsl --update; wsl --shutdown'
CONFIGURE='sudo nvidia-ctk runtime configure --runtime=docker, then sudo service docker restart'
TOOLKIT_GUIDE=https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html

# Two layers: a new machine, and what --fix makes of it.
setup_file() {
    [ -z "$(missing)" ] || return 0
    new=$BATS_FILE_TMPDIR/new fixed=$BATS_FILE_TMPDIR/fixed
    mkdir "$new" "$fixed"
    make_layer "$new"
    BATS_TEST_TMPDIR=$BATS_FILE_TMPDIR start_machine "$new"
    setup_wsl --fix >&2
    cp -a "$files/upper/." "$fixed"
    stop_machine
    export new fixed
}

setup() {
    [ -z "$(missing)" ] || skip "$(missing)"
    start_machine "$fixed" "$new"
}

teardown() { stop_machine; }

@test "Docker Desktop, nothing missing" {
    check
    fails
    warns
    says 'ok    wsl — WSL 2, kernel 6.6.87.2-microsoft-standard-WSL2'
    says 'ok    wsl-release — WSL 2.6.1.0'
    says 'ok    nvidia-smi — NVIDIA GeForce RTX 4090, 24564 MiB'
    says 'ok    docker-engine — Docker Desktop, 29.1.3'
    says 'skip  toolkit — Docker Desktop has its own, nothing to install here'
    says 'ok    gpu-container — NVIDIA GeForce RTX 4090 in solotune:latest'
    says 'ok    checkout — ~/solotune on overlay'
    says 'ok    memory — 24.0 GiB, swap 16.0 GiB'
    says 'ok    clock — that of Windows'
    says 'ok    folders — runs data/splits models'
    says 'ready (0 warn). Next: invoke build, then invoke doctor'
}

@test "native engine with the NVIDIA toolkit, nothing missing" {
    native_engine
    check
    fails
    warns
    says 'ok    docker-engine — native engine, Ubuntu 24.04.3 LTS, 29.1.3'
    says 'ok    toolkit — toolkit 1.19.0'
    says 'ok    systemd — runs'
    says 'ok    gpu-container — NVIDIA GeForce RTX 4090 in solotune:latest'
}

@test "plain Linux with a GPU: no word of Windows, ready" {
    native_engine
    kernel 6.8.0-60-generic
    mv "$root/usr/lib/wsl/lib/nvidia-smi" "$root/usr/bin/nvidia-smi"
    sed -i 's|/usr/lib/wsl/lib/||' "$root/usr/bin/docker"
    rm -r "$root/dev/dxg" "$root/usr/lib/wsl" "$root/mnt/c"
    check
    fails
    warns
    says 'skip  wsl — not WSL (kernel 6.8.0-60-generic): what only concerns WSL is skipped'
    says 'skip  linux-driver — not WSL'
    says 'ok    driver — driver 581.57'
    says 'ok    gpu-container — NVIDIA GeForce RTX 4090 in solotune:latest'
    lacks Windows
    lacks PowerShell
}

@test "plain Linux with neither GPU nor Docker" {
    kernel 6.8.0-60-generic
    rm -r "$root/dev/dxg" "$root/usr/lib/wsl" "$root/mnt/c" "$root/usr/bin/docker"
    check
    fails nvidia-smi docker
    says 'FAIL  nvidia-smi — no nvidia-smi — no NVIDIA driver, so nothing trains on a GPU here: install driver 580 or later (Ubuntu: sudo ubuntu-drivers install), or run on the CPU: scripts/local.sh TASK'
    says 'FAIL  docker — no docker command — stages run in a container: install Docker Engine (https://docs.docker.com/engine/install/), or run on the CPU without it: scripts/local.sh TASK'
    says 'skip  gpu-container — no engine answers'
}

# --- WSL and the GPU

@test "WSL 1" {
    kernel 4.4.0-19041-Microsoft
    rm "$root/dev/dxg" "$root/usr/bin/docker"
    check
    fails wsl docker
    says 'FAIL  wsl — WSL 1 (kernel 4.4.0-19041-Microsoft) — it has no GPU and runs no containers; in PowerShell: wsl --set-version Ubuntu-24.04 2'
    says 'skip  nvidia-smi — needs WSL 2'
}

@test "old kernel" {
    kernel 5.4.72-microsoft-standard-WSL2
    check
    fails wsl
    says "FAIL  wsl — WSL 2, kernel 5.4.72-microsoft-standard-WSL2 — CUDA needs kernel 5.10.43 or later; $UPDATE"
}

@test "old WSL release" {
    answer wsl_release 2.0.9.0
    check
    fails wsl-release
    says "FAIL  wsl-release — WSL 2.0.9.0 — before 2.1.5 the GPU fails in containers; $UPDATE"
}

@test "programs of Windows don't run (interop off)" {
    find "$root/mnt/c" -name '*.exe' -exec sh -c 'printf "MZ\220" > "$1"' _ {} \;
    check
    fails
    warns wsl-release
    says "warn  wsl-release — WSL's release is unknown, wsl.exe gave none — it must be 2.1.5 or later; in PowerShell: wsl --version, and where that is no command or older: wsl --update"
    matches '^(ok    clock — that of pypi.org|skip  clock — nobody to compare it with)$'
}

@test "no GPU: Windows has no NVIDIA driver" {
    rm -r "$root/dev/dxg" "$root/usr/lib/wsl/lib"
    check
    fails gpu-device libcuda nvidia-smi
    says "FAIL  gpu-device — no /dev/dxg — Windows hands WSL no GPU: $WINDOWS_DRIVER (https://www.nvidia.com/drivers), then $UPDATE"
    says "FAIL  nvidia-smi — no /usr/lib/wsl/lib/nvidia-smi — it comes with the Windows driver: $WINDOWS_DRIVER, then in PowerShell: wsl --shutdown"
    says 'skip  gpu-container — no GPU answers outside of containers'
}

@test "libcuda missing" {
    rm "$root/usr/lib/wsl/lib/libcuda.so.1"
    check
    fails libcuda
    says "FAIL  libcuda — no /usr/lib/wsl/lib/libcuda.so.1 — CUDA programs reach the Windows driver through it, and Windows puts it there: $WINDOWS_DRIVER, then in PowerShell: wsl --shutdown"
}

@test "GPU access blocked by the operating system" {
    answer nvidia_smi_error 'Failed to initialize NVML: GPU access blocked by the operating system'
    check
    fails nvidia-smi
    says "FAIL  nvidia-smi — Failed to initialize NVML: GPU access blocked by the operating system — driver and WSL do not fit together: update NVIDIA's driver in Windows, then $UPDATE"
}

@test "old Windows driver" {
    answer driver 551.78
    answer container_error "docker: Error response from daemon: failed to create task for container: OCI runtime create failed: error running hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'
nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update your driver to a newer version, or use an earlier cuda container: unknown"
    check
    fails driver gpu-container
    says 'FAIL  driver — driver 551.78 — CUDA 13 needs 580 or later, the container would not start: install it in Windows (https://www.nvidia.com/drivers), nothing in this distribution, then in PowerShell: wsl --shutdown'
    says "FAIL  gpu-container — nvidia-container-cli: requirement error: unsatisfied condition: cuda>=13.0, please update your driver to a newer version, or use an earlier cuda container: unknown — stages would not see the GPU either: update NVIDIA's driver in Windows (580 or later), then $UPDATE"
}

@test "a Linux driver in the distribution; its fix mends it" {
    install_package nvidia-utils-550
    install_package libnvidia-compute-550
    check
    fails linux-driver
    says 'FAIL  linux-driver — libnvidia-compute-550 nvidia-utils-550 — in WSL the driver is the one of Windows, and these hide it: sudo apt-get purge libnvidia-compute-550 nvidia-utils-550'
    as_root 'apt-get purge --yes libnvidia-compute-550 nvidia-utils-550'
    check
    fails
}

# --- Docker

@test "no docker command" {
    rm "$root/usr/bin/docker"
    check
    fails docker
    says 'FAIL  docker — no docker command — stages run in a container: install Docker Desktop in Windows and turn on Settings › Resources › WSL integration for this distribution'
    says 'skip  compose — no docker command that runs'
}

@test "Docker Desktop's integration is off" {
    answer docker_error "
The command 'docker' could not be found in this WSL 2 distro.
We recommend to activate the WSL integration in Docker Desktop settings.

For details about using Docker Desktop with WSL 2, visit:

https://docs.docker.com/go/wsl2/
"
    check
    fails docker
    says "FAIL  docker — The command 'docker' could not be found in this WSL 2 distro. — turn on Settings › Resources › WSL integration for this distribution in Docker Desktop"
}

@test "the engine doesn't run" {
    answer engine_error 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?'
    check
    fails docker-engine
    says 'FAIL  docker-engine — Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running? — start Docker Desktop and wait until it says that the engine runs (an engine of the distribution: sudo service docker start)'
    says 'skip  docker-context — no engine answers'
    says 'skip  gpu-container — no engine answers'
}

@test "permission denied on Docker's socket" {
    answer engine_error 'permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.51/version": dial unix /var/run/docker.sock: connect: permission denied'
    check
    fails docker-engine
    says 'FAIL  docker-engine — permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get "http://%2Fvar%2Frun%2Fdocker.sock/v1.51/version": dial unix /var/run/docker.sock: connect: permission denied — this user may not talk to the engine: sudo usermod -aG docker $USER, then log in again'
}

@test "a remote context" {
    answer docker_host ssh://janedoe@gpu-box
    check
    fails docker-context
    says 'FAIL  docker-context — an engine elsewhere (ssh://…) — it sees neither this folder nor this GPU: unset DOCKER_HOST; docker context use default'
}

@test "old Compose" {
    answer compose_version 2.20.2
    check
    fails compose
    says 'FAIL  compose — Compose 2.20.2 — compose.yaml needs version 2.24 or later: update Docker Desktop'
}

@test "Compose v1 only" {
    native_engine
    answer compose_version ''
    printf '#!/bin/sh\necho "docker-compose version 1.29.2, build unknown"\n' > "$root/usr/bin/docker-compose"
    chmod +x "$root/usr/bin/docker-compose"
    check
    fails compose
    says "FAIL  compose — Compose not there — compose.yaml needs version 2.24 or later: sudo apt-get install docker-compose-v2 (docker-compose-plugin from Docker's own packages)"
}

@test "no buildx" {
    native_engine
    answer buildx_version ''
    check
    fails buildx
    says "FAIL  buildx — no buildx — the image is built with BuildKit: sudo apt-get install docker-buildx (docker-buildx-plugin from Docker's own packages)"
}

@test "without a GPU, asked about the CPU alone" {
    rm -r "$root/dev/dxg" "$root/usr/lib/wsl/lib"
    check --cpu
    fails
    lacks gpu-device
}

@test "native engine without the toolkit" {
    native_engine
    rm "$root/usr/bin/nvidia-ctk"
    answer docker_runtimes '{"runc":{"path":"runc"}}'
    answer container_error 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]'
    check
    fails toolkit gpu-container
    says "FAIL  toolkit — no nvidia-container-toolkit — the engine cannot hand a GPU to a container without it: install it ($TOOLKIT_GUIDE), then $CONFIGURE"
    says "FAIL  gpu-container — could not select device driver \"\" with capabilities: [[gpu]] — stages would not see the GPU either: install nvidia-container-toolkit if it is missing, then $CONFIGURE"
}

@test "native engine that doesn't know the toolkit" {
    native_engine
    answer docker_runtimes '{"runc":{"path":"runc"}}'
    answer container_error 'docker: Error response from daemon: failed to discover GPU vendor from CDI: no known GPU vendor found'
    check
    fails toolkit gpu-container
    says "FAIL  toolkit — toolkit 1.19.0, and the engine has no nvidia runtime — containers get no GPU: $CONFIGURE"
    says "FAIL  gpu-container — failed to discover GPU vendor from CDI: no known GPU vendor found — stages would not see the GPU either: install nvidia-container-toolkit if it is missing, then $CONFIGURE"
}

@test "toolkit with a known hole" {
    native_engine
    answer toolkit_version 1.17.7
    check
    fails
    warns toolkit
    says 'warn  toolkit — toolkit 1.17.7 — a container can leave its bounds (CVE-2025-23266) before 1.17.8: sudo apt-get install --only-upgrade nvidia-container-toolkit'
}

@test "native engine without systemd" {
    native_engine
    rm -r "$root/run/systemd"
    check
    fails
    warns systemd
    says 'warn  systemd — does not run — the engine does not start by itself: put [boot] and systemd=true into /etc/wsl.conf, then in PowerShell: wsl --shutdown'
}

@test "no GPU in the container: Docker Desktop" {
    answer container_error 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]]'
    check
    fails gpu-container
    says 'FAIL  gpu-container — could not select device driver "" with capabilities: [[gpu]] — stages would not see the GPU either: update Docker Desktop and turn on Settings › General › Use the WSL 2 based engine'
}

@test "no GPU in the container: the other known messages" {
    local message fix
    while IFS='|' read -r message fix; do
        answer container_error "docker: Error response from daemon: $message"
        run setup_wsl
        fails gpu-container
        says "FAIL  gpu-container — $message — stages would not see the GPU either: $fix"
    done << CASES
CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all|Docker Desktop has no CDI devices: take nvidia.com/gpu=all out of Settings › Docker Engine and of compose files of your own
unknown or invalid runtime name: nvidia|Docker Desktop has no runtime of that name: take it out of Settings › Docker Engine
nvidia-container-cli: initialization error: WSL environment detected but no adapters were found|update NVIDIA's driver in Windows (580 or later), then $UPDATE
Failed to initialize NVML: GPU access blocked by the operating system|update NVIDIA's driver in Windows (580 or later), then $UPDATE
Failed to initialize NVML: Unknown Error|restart Docker Desktop (an engine of the distribution: sudo service docker restart); if it comes back, "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json and restart
only 0 Devices available|a fault of some releases of Docker Desktop: update it, or go back to the release before
CASES
}

@test "no image yet; --pull brings its base and looks into that" {
    local base
    base=$(sed -n 's/^ARG BASE_IMAGE=//p' "$CHECKOUT/docker/Dockerfile")
    answer docker_images ''
    check
    fails
    says 'skip  gpu-container — neither solotune:latest nor its base is here — invoke build first, or scripts/setup_wsl.sh --pull'
    run setup_wsl --pull
    fails
    says "setup_wsl.sh: pulling ${base%@*}"
    says "ok    gpu-container — NVIDIA GeForce RTX 4090 in ${base%@*}"
    check # without --pull: the base is here now
    says "ok    gpu-container — NVIDIA GeForce RTX 4090 in ${base%@*}"
}

# --- folder and machine

@test "project on a Windows drive" {
    mkdir -p "$root/mnt/c/Users/$OWNER"
    mv "$root/home/$OWNER/solotune" "$root/mnt/c/Users/$OWNER"
    project=/mnt/c/Users/$OWNER/solotune
    check
    fails
    warns checkout
    says 'warn  checkout — /mnt/c/Users/…/solotune is a folder of Windows (overlay) — every file access crosses to Windows, many times slower: cp -r . ~/solotune, and work there'
}

@test "git with autocrlf: .gitattributes keeps LF" {
    commit
    as_owner 'git config --global core.autocrlf true && git clone -q solotune again && mkdir -p again/{runs,data/splits,models}'
    project=again
    check
    fails
    warns
    says 'ok    line-endings — no CRLF'
}

@test "a CR in what Python compiled is none of a script" {
    as_owner 'mkdir solotune/docker/host/__pycache__ && printf "\0\r\n" > solotune/docker/host/__pycache__/client.cpython-311.pyc'
    check
    says 'ok    line-endings — no CRLF'
}

@test "CRLF checkout; its fixes mend it" {
    as_owner 'rm solotune/.gitattributes'
    commit
    as_owner 'git -c core.autocrlf=true clone -q solotune again && mkdir -p again/{runs,data/splits,models}'
    project=again
    run -127 setup_wsl # env finds no "bash\r"
    run as_owner 'cd again && bash scripts/setup_wsl.sh'
    [ "$status" -eq 1 ]
    says "FAIL  line-endings — CRLF in scripts/setup_wsl.sh — bash cannot run it: sed -i 's/\\r\$//' 'scripts/setup_wsl.sh', then again"
    as_owner "cd again && sed -i 's/\\r\$//' scripts/setup_wsl.sh"
    check
    fails line-endings
    matches "^FAIL  line-endings — CRLF in .*docker/Dockerfile .*scripts/local.sh .*tasks.py .*uv.lock — Linux does not run such files: git config core.autocrlf input; sed -i 's/.r.//' "
    as_owner "cd again && $(sed -n 's/^FAIL  line-endings .* such files: //p' <<< "$output")"
    check
    fails
    says 'ok    line-endings — no CRLF'
}

@test "too little memory" {
    memory 7 2
    check
    fails
    warns memory
    says 'warn  memory — 7.0 GiB, swap 2.0 GiB — a 7-8B model wants 15 GiB, 19 with swap: it passes through memory, and a process that finds none is killed (exit 137). WSL takes half of the PC'"'"'s memory; on one with 32 GB write the lines below into %UserProfile%\.wslconfig, then in PowerShell: wsl --shutdown'
    says '          [wsl2]'
    says '          memory=24GB'
    says '          swap=16GB'
}

@test "memory enough, swap off" {
    memory 16 0
    check
    fails
    warns memory
}

@test "disk too small for all of it" {
    disk_size 30G
    check
    fails
    warns disk
    says 'warn  disk — 30.0 GiB free at ~/solotune — image, base models and runs take about 60 GiB: make room, for instance with docker system prune'
}

@test "disk too small for the image" {
    disk_size 10G
    check
    fails disk
    says 'FAIL  disk — 10.0 GiB free at ~/solotune — the image alone needs 15 GiB to build, 60 GiB in all: make room, for instance with docker system prune'
}

@test "drive C: full, where the distribution's disk is a file" {
    outside mount -t tmpfs -o size=9G tmpfs "$disk/root/mnt/c"
    cp -R "$new/mnt/c/." "$root/mnt/c"
    check
    fails disk
    says 'FAIL  disk — 9.0 GiB free at /mnt/c — the image alone needs 15 GiB to build, 60 GiB in all: make room, for instance with docker system prune'
}

@test "small /dev/shm; its fix mends it" {
    outside mount -o remount,size=64M "$disk/root/dev/shm"
    check
    fails
    warns shm
    says 'warn  shm — 0.1 GiB in /dev/shm — only scripts/local.sh uses it, whose data loaders die of a bus error (a container has its own, shm_size of compose.yaml): sudo mount -o remount,size=4G /dev/shm'
    as_root 'mount -o remount,size=4G /dev/shm'
    check
    warns
}

@test "clock behind" {
    answer windows_ahead 7200
    check
    fails clock
    matches '^FAIL  clock — 7(199|200|201) s behind Windows — apt and TLS refuse what expired or is still to come: sudo hwclock -s, or in PowerShell: wsl --shutdown$'
}

@test "clock ahead" {
    answer windows_ahead -90
    check
    fails clock
    matches '^FAIL  clock — (89|90|91) s ahead of Windows — '
}

@test "folders that belong to root; their fix mends it" {
    as_root "chown root:root /home/$OWNER/solotune/runs /home/$OWNER/solotune/models"
    check
    fails folders
    says 'FAIL  folders — not writable: runs models — the container writes there as this user: sudo chown -R $(id -u):$(id -g) runs models'
    as_root "cd /home/$OWNER/solotune && chown -R 1001:1001 runs models"
    check
    fails
}

# --- what it changes

@test "a new machine: --fix makes it ready, and changes nothing the second time" {
    local before
    stop_machine
    start_machine "$new"
    check
    fails invoke
    warns folders
    says 'FAIL  invoke — no invoke — every command is an invoke task: scripts/setup_wsl.sh --fix'
    says 'warn  folders — missing: runs/ data/splits/ models/ — compose.yaml mounts them and stops where one is missing: scripts/setup_wsl.sh --fix'

    run setup_wsl --fix
    fails
    warns invoke
    says 'warn  invoke — ~/.local/bin/invoke is not in PATH — the shell does not find invoke: log in again, or export PATH=~/.local/bin:$PATH'

    check # logged in again
    fails
    warns
    as_owner 'cd solotune && invoke --list' | grep -q train

    before=$(listing)
    run setup_wsl --fix
    fails
    lacks setup_wsl.sh: # nothing was made
    diff <(echo "$before") <(listing)
}

@test "--fix without a network says so and goes on" {
    stop_machine
    start_machine "$new"
    rm -f "$root/etc/resolv.conf"
    run setup_wsl --fix
    fails invoke
    matches '^bootstrap_uv: '
    says 'setup_wsl.sh: fix_invoke did not succeed, its reason is above; the checks follow'
    says 'ok    folders — runs data/splits models'
}

@test "--json: good, bad and broken machines; no user's name" {
    json ready
    memory 7 2
    json ready
    mkdir -p "$root/mnt/c/Users/$OWNER"
    cp -R "$root/home/$OWNER/solotune" "$root/mnt/c/Users/$OWNER"
    as_root "chown -R root:root /mnt/c/Users/$OWNER/solotune/runs"
    answer docker_host "ssh://$OWNER@gpu-box"
    answer container_error "open /home/$OWNER/.docker/config.json: \"C:\\Users\\$OWNER\\x\": permission denied"$'\r\n\t\x01\xff'
    printf '#!/bin/sh\necho "$0: bad interpreter" >&2\nexit 1\n' > "$root/home/$OWNER/.local/share/solotune/invoke/bin/invoke"
    project=/mnt/c/Users/$OWNER/solotune
    json 'not ready'
    answer docker_error "error getting credentials: /home/$OWNER/.docker: no such file"
    rm -r "$root/usr/lib/wsl" "$root/dev/dxg"
    json 'not ready'
}
