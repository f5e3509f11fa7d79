#!/usr/bin/env bash
# Says whether this machine can train on its GPU in the container, and how to make it so. Made for Windows with
# WSL2; on any other Linux the checks that only concern WSL are skipped.
#
#     scripts/setup_wsl.sh [--check] [--json]     looks and changes nothing (the default)
#     scripts/setup_wsl.sh --fix [--json]         first makes what is missing in this distribution: a venv with invoke
#                                                 in ~/.local/share/solotune/invoke and its link in ~/.local/bin, and
#                                                 the folders runs/, data/splits/ and models/. Never touches Windows.
#     --pull                                      looks for the GPU in a container even before the image is built: brings
#                                                 the image's base, if neither is here
#     --cpu                                       leaves out what only a GPU needs
#     --json                                      the findings as JSON, for bug reports; no user's name is in them
#
# One line a check:  ok | warn | FAIL | skip  name — what was found — why it matters and the fix
# Exit status: 0 ready, 1 at least one FAIL, 2 wrong usage.
#
# In a file with CRLF no further line would run; the CR of this one falls into its comment.
grep -qs $'\r' "$0" && printf '%s\n' "FAIL  line-endings — CRLF in $0 — bash cannot run it: sed -i 's/\r\$//' '$0', then again" && exit 1 #
set -euo pipefail

# In this order; check_NAME is below, and ends in one ok, warn, fail or skip. Three of them leave something for later
# ones: nvidia_smi the driver_version, docker the client, docker_engine the engine.
CHECKS=(
    wsl wsl_release gpu_device libcuda nvidia_smi driver linux_driver
    docker docker_engine docker_context compose buildx toolkit systemd gpu_container
    checkout line_endings memory disk shm clock
    python invoke folders
)
GPU_CHECKS=' gpu_device libcuda nvidia_smi driver linux_driver toolkit gpu_container '
FIXES=(fix_invoke fix_folders)

WSL_RELEASE_MIN=2.1.5  # older: GPU failures with containers
KERNEL_MIN=5.10.43     # older: no CUDA in WSL
DRIVER_MIN=580         # CUDA 13
ENGINE_MIN=20.10       # BuildKit
COMPOSE_MIN=2.24       # older: compose.yaml is not tested with it; 1 is another program
TOOLKIT_MIN=1.17.8     # CVE-2025-23266
PYTHON_MIN=3.10        # of the host, for tasks.py
INVOKE_MIN=2.2         # pyproject.toml
MEMORY_GIB=15          # a 7-8B model, 16 GB, passes through memory on its way to the GPU; a 16 GB VM shows 15.x
MEMORY_SWAP_GIB=19     # the model and what else runs; what WSL takes on a PC with 32 GB, swap included
DISK_GIB=60            # image 8, build cache, an 8B model 16, its two merges 32, runs
DISK_LEAST_GIB=15      # the image does not build
SHM_MIB=1000
CLOCK_SECONDS=60
FOLDERS=(runs data/splits models)

# What is looked at; tests put something else here.
: "${SOLOTUNE_ROOT:=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)}"
: "${PROC_OSRELEASE:=/proc/sys/kernel/osrelease}"
: "${PROC_MEMINFO:=/proc/meminfo}"
: "${DXG_DEVICE:=/dev/dxg}"
: "${SHM_DIR:=/dev/shm}"
: "${SYSTEMD_DIR:=/run/systemd/system}"
: "${WSL_LIB:=/usr/lib/wsl/lib}"
: "${WSL_EXE:=wsl.exe}"
: "${WINDOWS_DRIVE:=/mnt/c}"
: "${DOCKER:=docker}"
: "${INVOKE_HOME:=$HOME/.local/share/solotune/invoke}"
: "${INVOKE_LINK:=$HOME/.local/bin/invoke}"
: "${TOOL_SECONDS:=15}"
: "${CONTAINER_SECONDS:=60}"

IMAGE=${SOLOTUNE_IMAGE_TAG:-solotune:latest} # as in compose.yaml

export LC_ALL=C                  # tools answer in English
export PYTHONDONTWRITEBYTECODE=1 # looking writes nothing

main() {
    read_arguments "$@"
    detect_wsl
    if [ "$mode" = fix ]; then
        local fix
        for fix in "${FIXES[@]}"; do
            "$fix" >&2 || say "$fix did not succeed, its reason is above; the checks follow"
        done
    fi
    for name in "${CHECKS[@]}"; do
        if [ "$with_gpu" = no ] && [[ $GPU_CHECKS == *" $name "* ]]; then
            continue
        fi
        "check_$name" || true
    done
    if [ "$json" = yes ]; then
        print_json
    else
        print_lines
    fi
    [ "$fails" -eq 0 ]
}

read_arguments() {
    mode='' json=no with_gpu=yes pull=no
    local argument
    for argument in "$@"; do
        case "$argument" in
        --check | --fix)
            if [ -n "$mode" ] && [ "$mode" != "${argument#--}" ]; then
                usage_error "--check and --fix exclude each other"
            fi
            mode=${argument#--}
            ;;
        --pull) pull=yes ;;
        --json) json=yes ;;
        --cpu) with_gpu=no ;;
        -h | --help)
            sed -n '2,/^# Exit/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) usage_error "unknown argument: $argument" ;;
        esac
    done
}

usage_error() {
    printf 'setup_wsl.sh: %s\nusage: setup_wsl.sh [--check | --fix] [--pull] [--cpu] [--json] [-h]\n' "$1" >&2
    exit 2
}

# --- findings

statuses=() names=() founds=() hints=()
fails=0 warns=0
name='' driver_version='' client='' engine=''

ok() { finding ok "$1" ''; }
skip() { finding skip "$1" "${2-}"; }
warn() {
    warns=$((warns + 1))
    finding warn "$1" "$2"
}
fail() {
    fails=$((fails + 1))
    finding FAIL "$1" "$2"
}

finding() {
    statuses+=("$1")
    names+=("${name//_/-}")
    founds+=("$(private "$2")")
    hints+=("$(private "$3")")
}

# Reports are pasted in public.
private() {
    local text=$1 tilde=\~/
    if [ "$HOME" != / ]; then
        text=${text//"$HOME/"/$tilde}
    fi
    printf '%s' "$text" | sed -E 's#([/\\]Users[/\\])[^/\\]+#\1…#g; s#/home/[^/ ]+#/home/…#g'
}

print_lines() {
    local i hint indented=$'\n          '
    for i in "${!names[@]}"; do
        hint=${hints[i]//$'\n'/$indented}
        printf '%-4s  %s — %s%s\n' "${statuses[i]}" "${names[i]}" "${founds[i]}" "${hint:+ — $hint}"
    done
    if [ "$fails" -gt 0 ]; then
        printf '\nnot ready: %d FAIL, %d warn. Fix the first FAIL, then run this again.\n' "$fails" "$warns"
    else
        printf '\nready (%d warn). Next: invoke build, then invoke doctor\n' "$warns"
    fi
}

print_json() {
    local i separator='' ready=false
    [ "$fails" -gt 0 ] || ready=true
    printf '{"schema_version": 1, "ready": %s, "wsl": %s, "checks": [' "$ready" "${wsl:-null}"
    for i in "${!names[@]}"; do
        printf '%s\n  {"name": "%s", "status": "%s", "found": %s, "fix": %s}' "$separator" \
            "${names[i]}" "${statuses[i]}" "$(json_string "${founds[i]}")" "$(json_string "${hints[i]}")"
        separator=,
    done
    printf '\n]}\n'
}

json_string() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    printf '"%s"' "${text//[$'\001'-$'\037']/ }"
}

# --- tools

say() { printf 'setup_wsl.sh: %s\n' "$*" >&2; }

# Runs a tool that might hang (a sleeping Docker Desktop, broken Windows interop).
quick() { timeout "$TOOL_SECONDS" "$@" < /dev/null; }

# Why a tool failed: its first line, as plain text.
reason() {
    local text status=0
    text=$(quick "$@" 2>&1) || status=$?
    if [ "$status" -eq 124 ]; then
        printf 'no answer in %s s' "$TOOL_SECONDS"
        return
    fi
    text=$(first_line "$text")
    printf '%s' "${text:-exit status $status}"
}

first_line() { printf '%s' "$1" | tr '\r' '\n' | tr -cd '[:print:]\n' | grep -m 1 . | cut -c 1-300 || true; }

# Reads to the end: a tool that cannot write its second line fails.
first_version() { grep -aoE '[0-9]+(\.[0-9]+)+' | sed -n 1p; }

at_least() { printf '%s\n' "$2" "$1" | sort -VC; }

has() { command -v "$1" > /dev/null 2>&1; }

# KiB free where the path is; nothing when there is no such path.
free_kib() { df -Pk -- "$1" 2> /dev/null | awk 'NR == 2 { print $4 }'; }

gib() { awk -v kib="$1" 'BEGIN { printf "%.1f GiB", kib / 1048576 }'; }

# --- WSL and the GPU

# Sets wsl to 2, 1 or nothing, and kernel.
detect_wsl() {
    wsl='' kernel=''
    if [ -r "$PROC_OSRELEASE" ]; then
        kernel=$(cat "$PROC_OSRELEASE")
    fi
    case "$kernel" in
    *WSL2* | *microsoft-standard*) wsl=2 ;;
    *Microsoft*) wsl=1 ;;
    *) if [ -e "$DXG_DEVICE" ]; then wsl=2; fi ;; # a kernel of one's own
    esac
}

# For checks of what only WSL2 has.
only_wsl2() {
    case "$wsl" in
    2) return 0 ;;
    1) skip "needs WSL 2" ;;
    *) skip "not WSL" ;;
    esac
    return 1
}

check_wsl() {
    local version
    case "$wsl" in
    1) fail "WSL 1 (kernel $kernel)" "it has no GPU and runs no containers; in PowerShell: wsl --set-version ${WSL_DISTRO_NAME:-Ubuntu} 2" ;;
    2)
        version=$(printf '%s' "$kernel" | first_version) || version=0
        if at_least "$version" "$KERNEL_MIN"; then
            ok "WSL 2, kernel $kernel"
        else
            fail "WSL 2, kernel $kernel" "CUDA needs kernel $KERNEL_MIN or later; in PowerShell: wsl --update; wsl --shutdown"
        fi
        ;;
    *) skip "not WSL (kernel $kernel): what only concerns WSL is skipped" ;;
    esac
}

check_wsl_release() {
    only_wsl2 || return 0
    local exe=$WSL_EXE version
    has "$exe" || exe=$WINDOWS_DRIVE/Windows/System32/wsl.exe
    # wsl.exe answers in UTF-16 and in the language of Windows; only the numbers are of use.
    version=$(quick "$exe" --version 2> /dev/null | tr -d '\000\r' | first_version) || version=''
    if [ -z "$version" ]; then
        warn "WSL's release is unknown, wsl.exe gave none" "it must be $WSL_RELEASE_MIN or later; in PowerShell: wsl --version, and where that is no command or older: wsl --update"
    elif at_least "$version" "$WSL_RELEASE_MIN"; then
        ok "WSL $version"
    else
        fail "WSL $version" "before $WSL_RELEASE_MIN the GPU fails in containers; in PowerShell: wsl --update; wsl --shutdown"
    fi
}

check_gpu_device() {
    only_wsl2 || return 0
    if [ -e "$DXG_DEVICE" ]; then
        ok "$DXG_DEVICE"
    else
        fail "no $DXG_DEVICE" "Windows hands WSL no GPU: install NVIDIA's driver $DRIVER_MIN or later in Windows (https://www.nvidia.com/drivers), then in PowerShell: wsl --update; wsl --shutdown"
    fi
}

check_libcuda() {
    only_wsl2 || return 0
    if [ -e "$WSL_LIB/libcuda.so.1" ]; then
        ok "$WSL_LIB/libcuda.so.1"
    else
        fail "no $WSL_LIB/libcuda.so.1" "CUDA programs reach the Windows driver through it, and Windows puts it there: install NVIDIA's driver $DRIVER_MIN or later in Windows, then in PowerShell: wsl --shutdown"
    fi
}

check_nvidia_smi() {
    local smi=nvidia-smi gpus gpu memory why
    case "$wsl" in
    1) skip "needs WSL 2" && return ;;
    2) smi=$WSL_LIB/nvidia-smi ;; # by its full path: sudo drops the folder from PATH
    esac
    if ! has "$smi"; then
        if [ "$wsl" = 2 ]; then
            fail "no $smi" "it comes with the Windows driver: install NVIDIA's driver $DRIVER_MIN or later in Windows, then in PowerShell: wsl --shutdown"
        else
            fail "no nvidia-smi" "no NVIDIA driver, so nothing trains on a GPU here: install driver $DRIVER_MIN or later (Ubuntu: sudo ubuntu-drivers install), or run on the CPU: scripts/local.sh TASK"
        fi
        return
    fi
    if gpus=$(quick "$smi" --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits 2> /dev/null) &&
        [[ $gpus =~ ^([^,]+),\ *([0-9]+),\ *([0-9.]+) ]]; then
        gpu=${BASH_REMATCH[1]} memory=${BASH_REMATCH[2]} driver_version=${BASH_REMATCH[3]}
        ok "$gpu, $memory MiB$(printf '%s\n' "$gpus" | awk 'END { if (NR > 1) printf ", the first of %d GPUs", NR }')"
        return
    fi
    why=$(reason "$smi")
    case "$why" in
    *"blocked by the operating system"*) fail "$why" "driver and WSL do not fit together: update NVIDIA's driver in Windows, then in PowerShell: wsl --update; wsl --shutdown" ;;
    *"No devices were found"*) fail "$why" "the driver sees no NVIDIA GPU: enable it in the Device Manager of Windows (in the firmware on plain Linux) and restart" ;;
    *) fail "nvidia-smi: $why" "the GPU does not answer: update NVIDIA's driver ($DRIVER_MIN or later)$([ "$wsl" != 2 ] || printf ' in Windows, then in PowerShell: wsl --shutdown')" ;;
    esac
}

check_driver() {
    local where='for Linux (Ubuntu: sudo ubuntu-drivers install), then restart'
    if [ -z "$driver_version" ]; then
        skip "nvidia-smi told none"
        return
    fi
    if [ "$wsl" = 2 ]; then
        where='in Windows (https://www.nvidia.com/drivers), nothing in this distribution, then in PowerShell: wsl --shutdown'
    fi
    if at_least "$driver_version" "$DRIVER_MIN"; then
        ok "driver $driver_version"
    else
        fail "driver $driver_version" "CUDA 13 needs $DRIVER_MIN or later, the container would not start: install it $where"
    fi
}

check_linux_driver() {
    only_wsl2 || return 0
    if ! has dpkg-query; then
        skip "no dpkg here"
        return
    fi
    local packages
    # shellcheck disable=SC2016 # dpkg's own variables
    packages=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'nvidia-driver*' 'nvidia-utils-*' 'nvidia-dkms-*' \
        'nvidia-kernel-*' 'libnvidia-compute-*' libcuda1 2> /dev/null | awk '$1 == "ii" { printf "%s%s", separator, $2; separator = " " }') || true
    if [ -z "$packages" ]; then
        ok "none in the distribution"
    else
        fail "$packages" "in WSL the driver is the one of Windows, and these hide it: sudo apt-get purge $packages"
    fi
}

# --- Docker

check_docker() {
    local version
    if ! has "$DOCKER"; then
        fail "no docker command" "$(install_docker)"
    elif version=$(quick "$DOCKER" --version 2> /dev/null | first_version); then
        client=$version
        ok "client $version"
    else
        docker_failure "$(reason "$DOCKER" --version)"
    fi
}

install_docker() {
    if [ -n "$wsl" ]; then
        printf '%s' "stages run in a container: install Docker Desktop in Windows and turn on Settings › Resources › WSL integration for this distribution"
    else
        printf '%s' "stages run in a container: install Docker Engine (https://docs.docker.com/engine/install/), or run on the CPU without it: scripts/local.sh TASK"
    fi
}

docker_failure() {
    case "$1" in
    *"could not be found in this WSL"*) fail "$1" "turn on Settings › Resources › WSL integration for this distribution in Docker Desktop" ;;
    *"permission denied"*) fail "$1" "this user may not talk to the engine: sudo usermod -aG docker \$USER, then log in again" ;;
    *docker-credential-desktop*) fail "$1" "the Windows PATH is not in WSL: remove credsStore from ~/.docker/config.json" ;;
    *"Cannot connect"* | *"failed to connect"* | "no answer"*)
        if [ -n "$wsl" ]; then
            fail "$1" "start Docker Desktop and wait until it says that the engine runs (an engine of the distribution: sudo service docker start)"
        else
            fail "$1" "start the engine: sudo systemctl start docker"
        fi
        ;;
    *) fail "$1" "$(install_docker)" ;;
    esac
}

check_docker_engine() {
    local version system
    if [ -z "$client" ]; then
        skip "no docker command that runs"
        return
    fi
    version=$(quick "$DOCKER" version --format '{{.Server.Version}}' 2> /dev/null) || {
        docker_failure "$(reason "$DOCKER" version --format '{{.Server.Version}}')"
        return
    }
    system=$(quick "$DOCKER" info --format '{{.OperatingSystem}}' 2> /dev/null) || system='unknown system'
    if [ "$system" = 'Docker Desktop' ]; then
        engine=desktop
    else
        engine=native
        system="native engine, $system"
    fi
    if at_least "$version" "$ENGINE_MIN"; then
        ok "$system, $version"
    else
        fail "$system, $version" "the image is built with BuildKit, which needs $ENGINE_MIN or later: update Docker"
    fi
}

check_docker_context() {
    local host=${DOCKER_HOST-}
    if [ -z "$engine" ]; then
        skip "no engine answers"
        return
    fi
    if [ -z "$host" ]; then
        host=$(quick "$DOCKER" context inspect --format '{{.Endpoints.docker.Host}}' 2> /dev/null) || host=''
    fi
    case "$host" in
    unix://* | npipe://*) ok "local" ;;
    '') warn "docker context inspect gave no address" "an engine on another machine would not see this folder; see: docker context ls" ;;
    *) fail "an engine elsewhere (${host%%://*}://…)" "it sees neither this folder nor this GPU: unset DOCKER_HOST; docker context use default" ;;
    esac
}

check_compose() {
    local version
    if [ -z "$client" ]; then
        skip "no docker command that runs"
        return
    fi
    version=$(quick "$DOCKER" compose version --short 2> /dev/null | first_version) || version=''
    if [ -n "$version" ] && at_least "$version" "$COMPOSE_MIN"; then
        ok "Compose $version"
    elif [ "$engine" = desktop ]; then
        fail "Compose ${version:-not there}" "compose.yaml needs version $COMPOSE_MIN or later: update Docker Desktop"
    else
        fail "Compose ${version:-not there}" "compose.yaml needs version $COMPOSE_MIN or later: sudo apt-get install docker-compose-v2 (docker-compose-plugin from Docker's own packages)"
    fi
}

check_buildx() {
    local version
    if [ -z "$client" ]; then
        skip "no docker command that runs"
    elif version=$(quick "$DOCKER" buildx version 2> /dev/null | first_version); then
        ok "buildx $version"
    elif [ "$engine" = desktop ]; then
        fail "no buildx" "the image is built with BuildKit: update Docker Desktop"
    else
        fail "no buildx" "the image is built with BuildKit: sudo apt-get install docker-buildx (docker-buildx-plugin from Docker's own packages)"
    fi
}

CONFIGURE_TOOLKIT='sudo nvidia-ctk runtime configure --runtime=docker, then sudo service docker restart'

check_toolkit() {
    local version runtimes
    case "$engine" in
    '') skip "no engine answers" && return ;;
    desktop) skip "Docker Desktop has its own, nothing to install here" && return ;;
    esac
    if ! has nvidia-ctk; then
        fail "no nvidia-container-toolkit" "the engine cannot hand a GPU to a container without it: install it (https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html), then $CONFIGURE_TOOLKIT"
        return
    fi
    version=$(quick nvidia-ctk --version 2> /dev/null | first_version) || version=0
    runtimes=$(quick "$DOCKER" info --format '{{json .Runtimes}}' 2> /dev/null) || runtimes=''
    if [[ $runtimes != *'"nvidia"'* ]]; then
        fail "toolkit $version, and the engine has no nvidia runtime" "containers get no GPU: $CONFIGURE_TOOLKIT"
    elif ! at_least "$version" "$TOOLKIT_MIN"; then
        warn "toolkit $version" "a container can leave its bounds (CVE-2025-23266) before $TOOLKIT_MIN: sudo apt-get install --only-upgrade nvidia-container-toolkit"
    else
        ok "toolkit $version"
    fi
}

check_systemd() {
    only_wsl2 || return 0
    if [ "$engine" != native ]; then
        skip "only an engine of the distribution needs it"
    elif [ -d "$SYSTEMD_DIR" ]; then
        ok "runs"
    else
        warn "does not run" "the engine does not start by itself: put [boot] and systemd=true into /etc/wsl.conf, then in PowerShell: wsl --shutdown"
    fi
}

# A container gets the GPU as those of compose.yaml do.
check_gpu_container() {
    local image=$IMAGE text status=0
    if [ -z "$engine" ]; then
        skip "no engine answers"
        return
    elif [ -z "$driver_version" ]; then
        skip "no GPU answers outside of containers"
        return
    fi
    has_image "$image" || image=$(sed -n 's/^ARG BASE_IMAGE=//p' "$SOLOTUNE_ROOT/docker/Dockerfile")
    if ! has_image "$image"; then
        if [ "$pull" = no ]; then
            skip "neither $IMAGE nor its base is here" "invoke build first, or scripts/setup_wsl.sh --pull"
            return
        fi
        say "pulling ${image%@*}"
        if ! text=$("$DOCKER" pull --quiet "$image" 2>&1); then
            fail "${image%@*} does not come: $(first_line "$text")" "the image is built on it: mend the network, or Docker's proxy, then scripts/setup_wsl.sh --pull"
            return
        fi
    fi
    text=$(TOOL_SECONDS=$CONTAINER_SECONDS quick "$DOCKER" run --rm --network none --gpus driver=nvidia,count=1,capabilities=gpu "$image" nvidia-smi -L 2>&1) || status=$?
    if [ "$status" -eq 0 ] && [[ $text =~ GPU\ 0:\ ([^\(]+)\ \( ]]; then
        ok "${BASH_REMATCH[1]} in ${image%@*}"
    elif [ "$status" -eq 124 ]; then
        fail "no answer in $CONTAINER_SECONDS s" "the engine hangs: restart Docker Desktop (an engine of the distribution: sudo service docker restart)"
    else
        container_failure "$text"
    fi
}

has_image() { quick "$DOCKER" image inspect "$1" > /dev/null 2>&1; }

container_failure() {
    local known fix found
    while IFS='|' read -r known fix; do
        if found=$(grep -m 1 -o -e "$known.*" <<< "$1"); then
            break
        fi
    done < <(container_fixes)
    fail "$(first_line "${found:-nvidia-smi told none}")" "stages would not see the GPU either: $fix"
}

# What the output holds (a grep pattern)|the fix; the last line is for all else.
container_fixes() {
    local driver="update NVIDIA's driver ($DRIVER_MIN or later), then restart"
    local hook="install nvidia-container-toolkit if it is missing, then $CONFIGURE_TOOLKIT"
    local cdi='sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml'
    local runtime=$CONFIGURE_TOOLKIT
    if [ "$wsl" = 2 ]; then
        driver="update NVIDIA's driver in Windows ($DRIVER_MIN or later), then in PowerShell: wsl --update; wsl --shutdown"
    fi
    if [ "$engine" = desktop ]; then
        hook="update Docker Desktop and turn on Settings › General › Use the WSL 2 based engine"
        cdi="Docker Desktop has no CDI devices: take nvidia.com/gpu=all out of Settings › Docker Engine and of compose files of your own"
        runtime="Docker Desktop has no runtime of that name: take it out of Settings › Docker Engine"
    fi
    cat << FIXES
could not select device driver|$hook
failed to discover GPU vendor from CDI|$hook
CDI device injection failed|$cdi
unknown or invalid runtime name|$runtime
nvidia-container-cli: .*no adapters were found|$driver
nvidia-container-cli: .*unsatisfied condition: cuda>=|$driver
Failed to initialize NVML: GPU access blocked|$driver
Failed to initialize NVML: Unknown Error|restart Docker Desktop (an engine of the distribution: sudo service docker restart); if it comes back, "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json and restart
only 0 Devices available|a fault of some releases of Docker Desktop: update it, or go back to the release before
FIXES
    printf '|%s\n' "$hook"
}

# --- this folder and this machine

check_checkout() {
    local kind where=$SOLOTUNE_ROOT
    kind=$(findmnt -no FSTYPE -T "$where" 2> /dev/null) || kind=$(stat -f -c %T "$where" 2> /dev/null) || kind=unknown
    case "${wsl:-none} $kind $where" in
    *\ 9p\ * | *\ v9fs\ * | *\ drvfs\ * | *\ virtiofs\ * | [12]\ *\ /mnt/?/*)
        warn "$where is a folder of Windows ($kind)" "every file access crosses to Windows, many times slower: cp -r . ~/solotune, and work there"
        ;;
    *) ok "$where on $kind" ;;
    esac
}

check_line_endings() {
    local files crlf=''
    files=$(cd -- "$SOLOTUNE_ROOT" && find . -type d \( -name .git -o -name '.venv*' -o -path ./runs -o -path ./data -o -path ./models \) -prune -o \
        -type f \( -name '*.sh' -o -name '*.py' -path './.*' -o -name tasks.py -o -path './docker/*' -o -path './.ci/*' -o -name '*.lock' \) -exec grep -lI $'\r' {} + 2> /dev/null |
        sort | sed 's|^\./||' | tr '\n' ' ') || true
    files=${files% }
    if [ -n "$files" ]; then
        fail "CRLF in $files" "Linux does not run such files: git config core.autocrlf input; sed -i 's/\\r\$//' $files"
        return
    fi
    if has git; then
        crlf=$(git -C "$SOLOTUNE_ROOT" config core.autocrlf 2> /dev/null) || crlf=''
    fi
    if [ "$crlf" = true ] && ! grep -qs 'eol=lf' "$SOLOTUNE_ROOT/.gitattributes"; then
        warn "core.autocrlf is true" "git writes CRLF at the next checkout, and Linux does not run such files: git config core.autocrlf input"
    else
        ok "no CRLF"
    fi
}

check_memory() {
    local total swap found why
    total=$(awk '$1 == "MemTotal:" { print $2 }' "$PROC_MEMINFO" 2> /dev/null) || total=''
    swap=$(awk '$1 == "SwapTotal:" { print $2 }' "$PROC_MEMINFO" 2> /dev/null) || swap=0
    if [ -z "$total" ]; then
        skip "no MemTotal in $PROC_MEMINFO"
        return
    fi
    found="$(gib "$total"), swap $(gib "${swap:-0}")"
    why="a 7-8B model wants $MEMORY_GIB GiB, $MEMORY_SWAP_GIB with swap: it passes through memory, and a process that finds none is killed (exit 137)"
    if [ "$total" -ge $((MEMORY_GIB * 1048576)) ] && [ $((total + ${swap:-0})) -ge $((MEMORY_SWAP_GIB * 1048576)) ]; then
        ok "$found"
    elif [ -n "$wsl" ]; then
        warn "$found" "$why. WSL takes half of the PC's memory; on one with 32 GB write the lines below into %UserProfile%\\.wslconfig, then in PowerShell: wsl --shutdown"$'\n[wsl2]\nmemory=24GB\nswap=16GB'
    else
        warn "$found" "$why: choose a smaller base model, or add swap"
    fi
}

check_disk() {
    local place kib least='' where='' places=("$SOLOTUNE_ROOT")
    if [ "$engine" = native ]; then
        places+=("$(quick "$DOCKER" info --format '{{.DockerRootDir}}' 2> /dev/null)")
    fi
    if [ -n "$wsl" ]; then
        places+=("$WINDOWS_DRIVE") # the distribution's disk is a file there, which grows; its own df shows 1 TB
    fi
    for place in "${places[@]}"; do
        [ -d "$place" ] || continue
        kib=$(free_kib "$place") || kib=''
        if [ -n "$kib" ] && { [ -z "$least" ] || [ "$kib" -lt "$least" ]; }; then
            least=$kib where=$place
        fi
    done
    if [ -z "$least" ]; then
        skip "df told nothing"
    elif [ "$least" -ge $((DISK_GIB * 1048576)) ]; then
        ok "$(gib "$least") free at $where"
    elif [ "$least" -ge $((DISK_LEAST_GIB * 1048576)) ]; then
        warn "$(gib "$least") free at $where" "image, base models and runs take about $DISK_GIB GiB: make room, for instance with docker system prune"
    else
        fail "$(gib "$least") free at $where" "the image alone needs $DISK_LEAST_GIB GiB to build, $DISK_GIB GiB in all: make room, for instance with docker system prune"
    fi
}

check_shm() {
    local kib
    kib=$(free_kib "$SHM_DIR") || kib=''
    if [ -z "$kib" ]; then
        skip "no $SHM_DIR"
    elif [ "$kib" -ge $((SHM_MIB * 1024)) ]; then
        ok "$(gib "$kib") in $SHM_DIR"
    else
        warn "$(gib "$kib") in $SHM_DIR" "only scripts/local.sh uses it, whose data loaders die of a bus error (a container has its own, shm_size of compose.yaml): sudo mount -o remount,size=4G $SHM_DIR"
    fi
}

# The clock of WSL stands still while Windows sleeps.
check_clock() {
    local powershell=$WINDOWS_DRIVE/Windows/System32/WindowsPowerShell/v1.0/powershell.exe
    local theirs='' whose=Windows behind why='apt and TLS refuse what expired or is still to come'
    local fix='sudo hwclock -s, or in PowerShell: wsl --shutdown'
    if [ "$wsl" = 2 ]; then
        theirs=$(quick "$powershell" -NoProfile -Command '[DateTimeOffset]::UtcNow.ToUnixTimeSeconds()' 2> /dev/null | tr -cd 0-9) || theirs=''
    else
        fix='sudo timedatectl set-ntp true'
    fi
    if [ -z "$theirs" ] && has curl; then
        whose=pypi.org
        theirs=$(quick curl -sI -m 5 "http://$whose/" | sed -n 's/^[Dd]ate: //p') || theirs=''
        theirs=$(date -d "${theirs:-none}" +%s 2> /dev/null) || theirs=''
    fi
    if [ -z "$theirs" ]; then
        skip "nobody to compare it with"
        return
    fi
    behind=$((theirs - $(date +%s)))
    if [ "${behind#-}" -le "$CLOCK_SECONDS" ]; then
        ok "that of $whose"
    elif [ "$behind" -gt 0 ]; then
        fail "$behind s behind $whose" "$why: $fix"
    else
        fail "${behind#-} s ahead of $whose" "$why: $fix"
    fi
}

check_python() {
    local version
    version=$(quick python3 -I -c 'import platform; print(platform.python_version())' 2> /dev/null) || version=''
    if [ -n "$version" ] && at_least "$version" "$PYTHON_MIN"; then
        ok "Python $version"
    else
        fail "Python ${version:-not there}" "tasks.py needs $PYTHON_MIN or later: sudo apt-get install python3 (Ubuntu 22.04 and later have it)"
    fi
}

check_invoke() {
    local version
    if has invoke; then
        version=$(quick invoke --version 2> /dev/null | first_version) || version=''
        if [ -z "$version" ]; then
            fail "invoke does not run: $(reason invoke --version)" "every command is an invoke task: rm $(command -v invoke), then scripts/setup_wsl.sh --fix"
        elif at_least "$version" "$INVOKE_MIN"; then
            ok "invoke $version"
        else
            warn "invoke $version" "tasks.py is tested with $INVOKE_MIN or later: remove it, then scripts/setup_wsl.sh --fix"
        fi
    elif [ -x "$INVOKE_LINK" ]; then
        warn "$INVOKE_LINK is not in PATH" "the shell does not find invoke: log in again, or export PATH=${INVOKE_LINK%/*}:\$PATH"
    else
        fail "no invoke" "every command is an invoke task: scripts/setup_wsl.sh --fix"
    fi
}

check_folders() {
    local folder missing='' closed=''
    for folder in "${FOLDERS[@]}"; do
        if [ ! -d "$SOLOTUNE_ROOT/$folder" ]; then
            missing+=" $folder/"
        elif [ ! -w "$SOLOTUNE_ROOT/$folder" ]; then
            closed+=" $folder"
        fi
    done
    if [ -n "$closed" ]; then
        fail "not writable:$closed" "the container writes there as this user: sudo chown -R \$(id -u):\$(id -g)$closed"
    elif [ -n "$missing" ]; then
        warn "missing:$missing" "compose.yaml mounts them and stops where one is missing: scripts/setup_wsl.sh --fix"
    else
        ok "${FOLDERS[*]}"
    fi
}

# --- what --fix does

fix_invoke() {
    if has invoke || [ -x "$INVOKE_LINK" ]; then
        return 0
    fi
    if [ -e "$INVOKE_LINK" ]; then
        say "$INVOKE_LINK is there and is no program: move it away"
        return 1
    fi
    local uv pin
    # Version and hash as uv.lock has them; uv, because Ubuntu's Python comes without pip and venv.
    pin=$(awk '$0 == "[[package]]" { inside = 0 }
        $0 == "name = \"invoke\"" { inside = 1 }
        inside && /^version = / { gsub(/"/, "", $3); version = $3 }
        inside && match($0, /\.whl", hash = "sha256:[0-9a-f]+/) {
            print "invoke==" version " --hash=" substr($0, RSTART + 15, RLENGTH - 15)
        }' "$SOLOTUNE_ROOT/uv.lock") || return 1
    say "making a venv with invoke (${pin%% *}) in $INVOKE_HOME"
    uv=$(python3 -I "$SOLOTUNE_ROOT/scripts/bootstrap_uv.py") || return 1
    export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 # a company's CA is in the store of the system
    "$uv" venv --quiet --clear --no-project --python "$(command -v python3)" "$INVOKE_HOME" || return 1
    printf '%s\n' "$pin" | "$uv" pip install --no-config --quiet --require-hashes --no-build --python "$INVOKE_HOME" --requirement - || return 1
    mkdir -p "$(dirname "$INVOKE_LINK")" || return 1
    ln -sfn "$INVOKE_HOME/bin/invoke" "$INVOKE_LINK"
    say "linked $INVOKE_LINK"
}

fix_folders() {
    local folder
    for folder in "${FOLDERS[@]}"; do
        if [ ! -d "$SOLOTUNE_ROOT/$folder" ]; then
            say "making $folder/"
            mkdir -p "$SOLOTUNE_ROOT/$folder" || return 1
        fi
    done
}

main "$@"
