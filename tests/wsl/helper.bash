# shellcheck shell=bash disable=SC2154 # bats sets status and output
#
# A WSL2 Ubuntu for each test: a chroot in a mount namespace of its own, at the real paths.
#
#   SOLOTUNE_ROOTFS (make_rootfs.sh)   Debian's own files and tools
#   machine/                           what Windows, its driver and Docker put there; they answer what /etc/answers says
#   a tmpfs                            what a test and the script write
#
# It is /proc/sys/kernel/osrelease and /proc/meminfo that tell WSL2 and its memory: other files are mounted over them.

HERE=$BATS_TEST_DIRNAME
CHECKOUT=$(cd "$HERE/../.." && pwd)
OWNER=janedoe # a name that no message has by chance

# Why no machine can be made here; nothing when one can.
missing() {
    if [ "$(id -u)" -ne 0 ]; then
        echo 'needs root'
    elif [ -z "${SOLOTUNE_ROOTFS-}" ]; then
        echo 'no SOLOTUNE_ROOTFS: tests/wsl/make_rootfs.sh makes one'
    elif [ ! -e "$SOLOTUNE_ROOTFS/etc/rootfs" ]; then
        echo "$SOLOTUNE_ROOTFS is not of tests/wsl/make_rootfs.sh"
    fi
}

# --- layers

# Fills folder $1 with what makes Debian a WSL2 Ubuntu, with a user who has cloned the project.
make_layer() {
    local home=$1/home/$OWNER name
    mkdir -p "$1/etc/ssl/certs" "$home/solotune" "$1/dev"
    cp -R --preserve=mode "$HERE/machine/." "$1"
    touch "$1/usr/lib/wsl/lib/libcuda.so.1"
    cat "$SOLOTUNE_ROOTFS/etc/passwd" - > "$1/etc/passwd" <<< "$OWNER:x:1001:1001::/home/$OWNER:/bin/bash"
    cat "$SOLOTUNE_ROOTFS/etc/shadow" - > "$1/etc/shadow" <<< "$OWNER:*:20000:0:99999:7:::"
    cat "$SOLOTUNE_ROOTFS/etc/group" - > "$1/etc/group" <<< "$OWNER:x:1001:"

    # The network of this machine, for --fix.
    cp -L /etc/resolv.conf "$1/etc/resolv.conf"
    if [ -n "${SSL_CERT_FILE-}" ]; then
        cp -L "$SSL_CERT_FILE" "$1/etc/ssl/certs/of-the-host.crt"
        echo 'export SSL_CERT_FILE=/etc/ssl/certs/of-the-host.crt' >> "$1/etc/profile.d/network.sh"
    fi
    for name in http_proxy https_proxy no_proxy HTTPS_PROXY NO_PROXY UV_DEFAULT_INDEX PIP_INDEX_URL; do
        [ -z "${!name-}" ] || printf 'export %s=%q\n' "$name" "${!name}" >> "$1/etc/profile.d/network.sh"
    done

    cp "$SOLOTUNE_ROOTFS"/etc/skel/.[!.]* "$home"
    # What git has or would take: the tests also run before a commit.
    git -c safe.directory='*' -C "$CHECKOUT" ls-files -z --cached --others --exclude-standard |
        tar -C "$CHECKOUT" --null --ignore-failed-read -T - -cf - | tar -C "$home/solotune" -xf -
    chown -R 1001:1001 "$home"
}

# --- the machine

# Starts a machine of layers, the uppermost first; it ends with stop_machine.
start_machine() {
    local layers
    layers=$(IFS=: && echo "$*")
    disk=$BATS_TEST_TMPDIR/disk
    mkdir -p "$disk"
    unshare --mount setpriv --pdeathsig KILL sleep 600 > /dev/null 2>&1 3>&- & # ends with the test, come what may
    machine=$!
    until [ "$(cat /proc/$machine/comm)" = sleep ]; do sleep 0.01; done
    outside mount -t tmpfs -o size=100G tmpfs "$disk"
    files=/proc/$machine/root$disk # the same folder, seen from here
    root=$files/root
    mkdir "$files"/{upper,work,root}
    memory 24 16
    kernel 6.6.87.2-microsoft-standard-WSL2
    outside bash -euo pipefail -s "$disk" "$layers:$SOLOTUNE_ROOTFS" << 'MOUNTS'
cd "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay .
cd "$1/root" # the folder that was entered above lies below the mount
mount -t proc proc proc
mount --bind ../osrelease proc/sys/kernel/osrelease
mount --bind ../meminfo proc/meminfo
mount -t tmpfs tmpfs dev
for device in null zero random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
ln -s /proc/self/fd dev/fd
mknod -m 666 dev/dxg c 10 127
mkdir -m 1777 dev/shm
mount -t tmpfs -o size=12G tmpfs dev/shm
MOUNTS
}

stop_machine() {
    [ -n "${machine-}" ] || return 0
    kill "$machine" && wait "$machine" 2> /dev/null || true
}

# Runs a command in the machine's mount namespace, before the chroot.
outside() { nsenter --mount="/proc/$machine/ns/mnt" "$@"; }

as_root() { outside chroot "$disk/root" /bin/bash -lc "$1"; }

# As the owner, who logs in: a new shell with the PATH of a login.
as_owner() { outside env WSL_DISTRO_NAME=Ubuntu-24.04 chroot "$disk/root" su -l -w WSL_DISTRO_NAME "$OWNER" -c "$1"; }

# --- its states

answer() { printf '%s=%q\n' "$1" "$2" >> "$root/etc/answers"; }

kernel() { echo "$1" > "$files/osrelease"; }

memory() {
    printf '%-16s%8d kB\n' MemTotal: $(($1 * 1048576)) MemFree: 1048576 SwapTotal: $(($2 * 1048576)) > "$files/meminfo"
}

disk_size() { outside mount -o "remount,size=$1" "$disk"; }

# An engine of the distribution, with NVIDIA's toolkit and systemd.
native_engine() {
    answer docker_system 'Ubuntu 24.04.3 LTS'
    answer compose_version 2.40.3
    answer buildx_version 0.21.3
    mkdir -p "$root/run/systemd/system" "$root/var/lib/docker"
    chmod 710 "$root/var/lib/docker"
    cat > "$root/usr/bin/nvidia-ctk" << 'STUB'
#!/bin/bash
. /etc/answers
printf 'NVIDIA Container Toolkit CLI version %s\ncommit: 18d6e9f\n' "$toolkit_version"
STUB
    chmod +x "$root/usr/bin/nvidia-ctk"
}

# An installed package of this name, made by dpkg's own tools.
install_package() {
    local folder=$root/tmp/$1
    mkdir -p "$folder/DEBIAN"
    printf '%s: %s\n' Package "$1" Version 550.120-0ubuntu0.24.04.1 Architecture all Maintainer nobody Description none \
        > "$folder/DEBIAN/control"
    as_root "dpkg-deb --build /tmp/$1 /tmp/$1.deb && dpkg --install /tmp/$1.deb" > /dev/null
    rm -r "$folder" "$folder.deb"
}

commit() {
    as_owner 'cd solotune && git init -q && git add . && git -c user.name=x -c user.email=x commit -q -m x'
}

# --- what a test says

# Runs setup_wsl.sh in the checkout, as its owner; whatever it finds, it must have written nothing.
check() {
    local before
    before=$(listing)
    run setup_wsl "$@"
    diff <(echo "$before") <(listing)
}

setup_wsl() { as_owner "cd ${project:-solotune} && scripts/setup_wsl.sh $*"; }

# Every file of the machine with its owner, mode, size and times.
listing() {
    outside find "$disk/root" -path "$disk/root/proc" -prune -o -printf '%P %y %m %u:%g %s %T@ %C@ %l\n' | sort
}

# These checks FAIL, in this order, and no others; none: the machine is ready.
fails() { has_status FAIL "$*" && [ "$status" -eq $(($# > 0)) ]; }

warns() { has_status warn "$*"; }

has_status() {
    local found
    found=$(awk -v status="$1" '$1 == status { printf "%s%s", separator, $2; separator = " " }' <<< "$output")
    [ "$found" = "$2" ] || unlike "$1: '$found' instead of '$2'"
}

# One line is exactly this: status, what was found, why it matters and the fix.
says() { grep -qFx -e "$1" <<< "$output" || unlike "no line: $1"; }

matches() { grep -qE -e "$1" <<< "$output" || unlike "no line like: $1"; }

# A plain `! grep` would not fail the test.
lacks() { ! grep -qF -e "$1" <<< "$output" || unlike "there is: $1"; }

unlike() {
    printf '%s\n%s\n' "$1" "$output"
    return 1
}

# A report in JSON that is $1, ready or not, with all checks and no user's name.
json() {
    check --json
    lacks "$OWNER"
    python3 -m json.tool <<< "$output" > /dev/null
    python3 -c 'import json, sys
report = json.load(sys.stdin)
assert report["ready"] is (sys.argv[1] == "ready"), report["ready"]
assert len(report["checks"]) == 24
assert all(check["fix"] for check in report["checks"] if check["status"] in ("warn", "FAIL"))' "$1" <<< "$output"
}
