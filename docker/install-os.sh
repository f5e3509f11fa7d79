#!/usr/bin/env bash
# Installs the system packages of the image. docker/Dockerfile runs it with APT_SNAPSHOT set (an Ubuntu snapshot id,
# or empty for the archive of today) and, where the build was given one, a bundle of certificates to trust.
set -euo pipefail

# Triton compiles C that includes Python.h when a kernel first runs; git is for the manifest of a run and for editors.
packages=(ca-certificates gcc git libc6-dev python3 python3-dev python3-venv)

ca=/run/secrets/extra_ca.crt
options=()
if [ -s "$ca" ]; then
    options=(-o "Acquire::https::CAInfo=$ca")
fi
snapshot=()
if [ -n "${APT_SNAPSHOT:-}" ]; then
    snapshot=(--snapshot "$APT_SNAPSHOT")
fi

rm -f /etc/apt/sources.list.d/cuda*.list # every CUDA library comes with the wheels
export DEBIAN_FRONTEND=noninteractive
if [ -n "${APT_SNAPSHOT:-}" ] && [ ! -s /etc/ssl/certs/ca-certificates.crt ]; then
    # The snapshots are on https, which a base without certificates can't reach.
    apt-get "${options[@]}" update
    apt-get "${options[@]}" install -y --no-install-recommends ca-certificates
fi
apt-get "${options[@]}" "${snapshot[@]}" update
apt-get "${options[@]}" "${snapshot[@]}" install -y --no-install-recommends "${packages[@]}"

# What holds times would make two builds differ.
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log \
    /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
dpkg-query -W -f '${Package}=${Version}\n' | LC_ALL=C sort > /usr/share/apt.lock
