"""Files that several installed distributions bring, and which of them brought the bytes that are there."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from importlib import metadata


def shared_files() -> dict[str, list[str]]:
    """From each such path below site-packages to the distributions whose RECORD has its hash."""
    bringers = defaultdict(list)
    for distribution in metadata.distributions():
        for path in distribution.files or []:
            if path.hash is not None:
                bringers[str(path)].append((distribution.name, path))
    found = {}
    for name, several in bringers.items():
        if len(several) > 1:
            digest = hashlib.sha256(several[0][1].locate().read_bytes()).digest()
            text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            found[name] = sorted({distribution for distribution, path in several if path.hash.value == text})
    return found


if __name__ == "__main__":
    print(json.dumps(shared_files()))
