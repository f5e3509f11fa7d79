"""A data set of the hub -> data/hub/<name>--<revision>/: files of rows, and nothing that could be run."""

from __future__ import annotations

import glob
import re
import shutil
from pathlib import Path, PurePosixPath

from solotune import __version__
from solotune.artifacts.data_dir import ROOT, SCHEMA_VERSION, DataDir, DataManifest, matching
from solotune.artifacts.files import make_folder, remove_staged, staged_folder
from solotune.artifacts.lock import held
from solotune.config.schema import HubDataset
from solotune.console import say
from solotune.errors import ArtifactError, DataError
from solotune.stages.fetch.hub import Asked, token, trouble_in_one_line

_ROWS = re.compile(r".*\.((jsonl|json|csv|tsv)(\.gz|\.zst)?|parquet)", re.IGNORECASE)


def bring(hub: HubDataset, patterns: tuple[str, ...]) -> DataDir:
    """Brings the files that the patterns stand for, and no others; those that are there stay.

    Raises:
        DataError: the data set can't be found or reached, or has no such files.
        ArtifactError: what is there is damaged, or the disk is too small.
    """
    make_folder(ROOT)
    with held(ROOT, f"fetch ({hub.name})"):
        return _bring(hub, patterns)


def _bring(hub: HubDataset, patterns: tuple[str, ...]) -> DataDir:
    folder = DataDir.of(hub)
    known = folder.open() if folder.is_complete else None
    sizes = {} if known else _offered(hub)
    offered = known.offered if known else sorted(sizes)
    wanted = matching(hub.name, offered, patterns)
    missing = [name for name in wanted if known is None or name not in known.files]
    if not missing:
        say(f"{hub.name} is in {folder.path} already")
        return folder
    sizes = sizes or _offered(hub)
    _check_space(hub, sum(sizes.get(name, 0) for name in missing))
    manifest = known or DataManifest(SCHEMA_VERSION, hub.name, hub.revision, {}, offered, __version__)
    remove_staged(ROOT)  # of a process that was killed
    with staged_folder(folder.path) as staged:
        _download(hub, missing, staged)
        folder.add(staged, manifest)
    size = sum(record.bytes for record in folder.open().files.values())
    say(f"{hub.name}: {len(missing)} files brought, {size / 2**20:,.1f} MiB in {folder.path}")
    return folder


def _offered(hub: HubDataset) -> dict[str, int]:
    """Size by name of every file of rows in the data set, at its revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with trouble_in_one_line(_asked(hub)):
        tree = HfApi(token=token()).list_repo_tree(hub.name, recursive=True, revision=hub.revision, repo_type="dataset")
        found = {entry.path: int(entry.size or 0) for entry in tree if isinstance(entry, RepoFile)}
    return {name: size for name, size in found.items() if _ROWS.fullmatch(name) and _stays_inside(name)}


def _stays_inside(name: str) -> bool:
    """Names are the hub's: none may lead out of the folder, hide, or look like another on a screen."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and "\\" not in name and not any(part.startswith((".", "/")) for part in parts)


def _download(hub: HubDataset, names: list[str], staged: Path) -> None:
    from huggingface_hub import snapshot_download

    with trouble_in_one_line(_asked(hub)):
        snapshot_download(
            hub.name,
            repo_type="dataset",
            revision=hub.revision,
            local_dir=staged,
            allow_patterns=[glob.escape(name) for name in names],
            token=token(),
        )
    shutil.rmtree(staged / ".cache", ignore_errors=True)
    absent = [name for name in names if not (staged / name).is_file() or (staged / name).is_symlink()]
    if absent:
        raise DataError(f"the hub listed {absent[0]} in {hub.name} and didn't deliver it", "Run the same command again")


def _asked(hub: HubDataset) -> Asked:
    return Asked(
        kind="data set",
        name=hub.name,
        revision=hub.revision,
        key="dataset.hub.name",
        revision_key="dataset.hub.revision",
        without_hub="bring the files yourself, and name them in dataset.raw_files with dataset.hub: null",
        error=DataError,
    )


def _check_space(hub: HubDataset, size: int) -> None:
    ROOT.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(ROOT).free
    if size > free:
        raise ArtifactError(
            f"{hub.name} needs {size / 2**30:,.1f} GiB in {ROOT}, where {free / 2**30:,.1f} GiB are free",
            "Free some space, or name fewer files in dataset.raw_files",
        )
