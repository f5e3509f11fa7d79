#!/usr/bin/env bash
# Makes the root file system of a small Debian 12, which stands for two machines in the tests: the WSL2 distribution of
# tests/wsl, and the base image of the Docker tests (`tar -C DIR -c . | docker import - NAME`).
#
#     tests/wsl/make_rootfs.sh DIR
#
# Needs root, debootstrap, about 80 s and 400 MB. Does nothing when DIR is there and complete.
set -euo pipefail

SUITE=bookworm
MIRROR=http://deb.debian.org/debian
# python3, ca-certificates: what the image's base must have. curl, git: what every Ubuntu of WSL has besides.
PACKAGES=python3,ca-certificates,curl,git

die() {
    printf 'make_rootfs.sh: %s\n' "$1" >&2
    exit 1
}

[ $# -eq 1 ] || die 'usage: make_rootfs.sh DIR'
[ "$(id -u)" -eq 0 ] || die 'needs root'
command -v debootstrap > /dev/null || die 'needs debootstrap: apt-get install debootstrap'

made_of="$SUITE $PACKAGES"
if [ "$(cat "$1/etc/rootfs" 2> /dev/null)" = "$made_of" ]; then
    exit
fi
[ ! -e "$1" ] || die "$1 is there and is something else: remove it"

unfinished=$(mktemp -d "$1.XXXXXX")
trap 'rm -rf "$unfinished"' EXIT
debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$unfinished" "$MIRROR"
# Ubuntu 24.04 has this user, and the image has to do with it.
chroot "$unfinished" /usr/sbin/useradd --uid 1000 --create-home --shell /bin/bash ubuntu
rm -f "$unfinished"/var/cache/apt/archives/*.deb "$unfinished"/etc/resolv.conf
printf '%s\n' "$made_of" > "$unfinished/etc/rootfs"
chmod 755 "$unfinished"
mv -T "$unfinished" "$1"
