#!/usr/bin/env bash
# Gives a bare Debian machine a Docker engine with Compose and buildx, as root; does nothing where one answers.
# Exit status 1: no engine can be had here, and the reason is on the error stream.
set -euo pipefail

compose_min=2.24
plugins=/usr/local/lib/docker/cli-plugins

main() {
    if ! docker version > /dev/null 2>&1; then
        install_engine
        start_engine
    fi
    if ! at_least "$(docker compose version --short 2> /dev/null || echo 0)" "$compose_min" ||
        ! docker buildx version > /dev/null 2>&1; then
        install_plugins # for every user of the machine
    fi
    docker version --format 'engine {{.Server.Version}}, client {{.Client.Version}}'
    docker compose version
}

install_engine() {
    command -v dockerd > /dev/null && return
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker.io iptables > /dev/null
}

start_engine() {
    local log=/var/log/dockerd-ci.log second
    for second in $(seq 40); do
        if docker version > /dev/null 2>&1; then
            return
        fi
        if ! grep -qsx dockerd /proc/[0-9]*/comm; then
            rm -f /var/run/docker.pid # of one that was killed; dockerd would refuse to start
            setsid dockerd > "$log" 2>&1 < /dev/null &
        fi
        sleep 1
    done
    echo "engine.sh: dockerd does not answer after $second s:" >&2
    tail -n 5 "$log" >&2
    exit 1
}

# Debian 12 has only the Compose of Python: the plugins are those of Debian 13, checked by apt against its keys.
install_plugins() {
    local work
    work=$(mktemp -d)
    mkdir -p "$work"/{lists/partial,parts} "$plugins"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" > "$work/sources.list"
    local apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o "Dir::Etc::SourceParts=$work/parts"
        -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$work" && "${apt[@]}" download docker-compose docker-buildx)
    local package
    for package in "$work"/*.deb; do
        dpkg-deb --extract "$package" "$work/files"
    done
    cp "$work"/files/usr/libexec/docker/cli-plugins/* "$plugins/"
    rm -rf "$work"
}

at_least() { printf '%s\n' "$2" "${1#v}" | sort -VC; }

main
