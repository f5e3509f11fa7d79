"""What the folders that `fetch` makes have in common."""

from __future__ import annotations

import re
from pathlib import Path

from solotune.artifacts.files import FileRecord, differing_files
from solotune.errors import ArtifactError

MADE_BY = "invoke fetch --config CONFIG"


def readable(name: str) -> str:
    """What a folder's name tells people of what is in it; what makes it unlike others comes behind."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.").lower()[-60:]


def refuse_damaged(
    folder: Path, files: dict[str, FileRecord], what: str, *, hashes: bool = False, shown: int | None = None
) -> None:
    """Raises ArtifactError where recorded files are missing or aren't as they were fetched.

    Args:
        folder: with the files.
        files: what its manifest says of them.
        what: they are, in words.
        hashes: compare contents, not sizes only.
        shown: how many of them are named; None: all.
    """
    damage = differing_files(folder, files, hashes=hashes)
    if damage:
        raise ArtifactError(
            f"{what} in {folder} is damaged: {'; '.join(damage[:shown])}", f"Delete that folder and run `{MADE_BY}`"
        )
