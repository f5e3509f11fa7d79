"""Files that several installed distributions bring, and which of them brought the bytes that are there."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections import defaultdict
from importlib import metadata
from pathlib import Path


def shared_files() -> dict[str, list[str]]:
    """From each such path below site-packages to the distributions whose RECORD has its hash."""
    bringers: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for distribution in metadata.distributions():
        name = distribution.name  # which parses the metadata each time
        for path, digest, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            if digest:
                bringers[path].append((name, digest.removeprefix("sha256=")))
    found = {}
    for path, several in bringers.items():
        if len(several) > 1:
            content = Path(str(metadata.distribution(several[0][0]).locate_file(path))).read_bytes()
            there = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            found[path] = sorted({name for name, digest in several if digest == there})
    return found


if __name__ == "__main__":
    print(json.dumps(shared_files()))
