"""What the rows that a run learned from begin with. Without it an adapter that learned its task seems not to."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from solotune.artifacts.files import differing_files
from solotune.artifacts.run_manifest import RunManifest
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError

_LOOKED_AT = 1000


def system_message(config: RunConfig, manifest: RunManifest) -> tuple[str, str]:
    """The system message of a run's training rows, and a line about it.

    Args:
        config: the run's own.
        manifest: its own.

    Returns:
        The message where all of the first rows have the same one, else ""; and a line where they have any, or where
        they can't be asked, else "".
    """
    splits = SplitsDir(Path(config.dataset.splits_dir))
    try:
        found = _first_rows(splits, manifest)
    except (ArtifactError, OSError):
        found = None
    if found is None:
        gone = f"{splits.path} isn't what it was trained on: if those rows began with a system message"
        return "", f"{gone}, give it with /system TEXT"
    kinds = set(found)
    if len(kinds) == 1 and "" not in kinds:
        return found[0], "with the system message of the rows it was trained on; /system alone begins without it"
    if kinds - {""}:
        several = f"{sum(map(bool, found)):,} of the first {len(found):,} rows it was trained on have a system message"
        return "", f"{several}; this chat begins without one (/system TEXT)"
    return "", ""


def _first_rows(splits: SplitsDir, manifest: RunManifest) -> list[str] | None:
    """The system message or "" of each; None where they aren't those of then."""
    recorded, train = splits.manifest().outputs, splits.split("train")
    if recorded != manifest.splits or differing_files(splits.path, {train.name: recorded[train.name]}, hashes=True):
        return None
    rows = islice(read_rows(train), _LOOKED_AT)
    return [row.messages[0].content if row.messages[0].role == "system" else "" for row in rows]
