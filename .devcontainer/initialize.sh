#!/bin/sh
# Before the editor's container starts, on the host: what compose.yaml mounts and whom it runs as. The image is that
# of `invoke build`, and is built here when it isn't there.
set -eu
cd "$(dirname "$0")/.."

mkdir -p runs data/splits models
if [ "$(id -u)" != 1000 ] && ! grep -q '^SOLOTUNE_UID=' .env 2> /dev/null; then
    # Compose reads .env; an editor has no other way to say whose files these are.
    printf 'SOLOTUNE_UID=%s\nSOLOTUNE_GID=%s\n' "$(id -u)" "$(id -g)" >> .env
fi
if ! docker image inspect solotune:latest > /dev/null 2>&1; then
    python3 -c 'import sys; sys.path.insert(0, "docker"); import container; sys.exit(container.build())'
fi
