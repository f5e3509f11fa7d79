"""What the rows that a run learned from begin with. Without it an adapter that learned its task seems not to."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

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
        manifest: its own; splits that aren't those of then tell nothing.

    Returns:
        The message where all of the first rows have the same one, else ""; and a line where they have any, else "".
    """
    splits = SplitsDir(Path(config.dataset.splits_dir))
    try:
        if splits.open(config.dataset).outputs != manifest.splits:
            return "", ""
    except ArtifactError:
        return "", ""
    found = [
        row.messages[0].content if row.messages[0].role == "system" else ""
        for row in islice(read_rows(splits.split("train")), _LOOKED_AT)
    ]
    kinds = set(found)
    if len(kinds) == 1 and "" not in kinds:
        return found[0], "with the system message of the rows it was trained on; /system alone begins without it"
    if kinds - {""}:
        several = f"{sum(map(bool, found)):,} of the first {len(found):,} rows it was trained on have a system message"
        return "", f"{several}; this chat begins without one (/system TEXT)"
    return "", ""
