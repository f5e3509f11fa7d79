"""Rows of the tasks in evaluation.suite.tasks -> data/hub/suite/, where `evaluate --suite` finds them offline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solotune import __version__
from solotune.artifacts.data_dir import ROOT
from solotune.artifacts.files import make_folder, remove_staged, staged_folder
from solotune.artifacts.lock import held
from solotune.artifacts.suite_data import ROOT as SUITE
from solotune.artifacts.suite_data import SuiteData
from solotune.config.schema import SuiteConfig
from solotune.console import counted, safe, say
from solotune.errors import DataError
from solotune.harness.suite_data import Load, kept_rows
from solotune.harness.suite_tasks import first_line, load, refuse_unknown, task_manager, trouble_told
from solotune.stages.fetch.hub import Asked, token, trouble_in_one_line

_KEY = "evaluation.suite.tasks"


@dataclass(frozen=True)
class Wanted:
    """Tasks that come with lm-evaluation-harness."""

    tasks: list[str]
    manager: Any
    """lm_eval.tasks.TaskManager."""


def find(settings: SuiteConfig | None) -> Wanted | None:
    """The tasks whose rows are to be brought. The user's own aren't among them: their rows lie in files.

    Raises:
        MachineError: lm-evaluation-harness isn't installed.
        ConfigError: there is no task of that name, nor a folder for own ones.
    """
    if settings is None or not settings.tasks:
        return None
    manager, _ = task_manager(None, settings.tasks)
    own = [task for task in settings.tasks if task not in manager.all_tasks]
    if own and settings.include_path is None:
        refuse_unknown(manager, settings, own, _KEY)
    if own:
        names = ", ".join(safe(task, 60) for task in own)
        say(f"{names}: not of lm-evaluation-harness, so taken for your own, whose rows lie in files")
    return Wanted([task for task in settings.tasks if task not in own], manager)


def bring(wanted: Wanted) -> None:
    """Loads each task as `evaluate` will, and keeps the rows that it asks for; those that are there stay.

    Raises:
        DataError: a task's rows can't be found or reached, or can't be kept.
    """
    make_folder(SUITE)
    with held(ROOT, f"fetch ({_KEY})"):
        remove_staged(SUITE)
        for task in wanted.tasks:
            _bring(wanted.manager, task)


def _bring(manager: Any, task: str) -> None:
    brought: list[SuiteData] = []

    def keep(data: SuiteData, load_rows: Load) -> None:
        _keep(data, load_rows)
        brought.append(data)

    def told(error: Exception) -> DataError:
        return DataError(
            f"{_KEY}: {safe(task, 200)} can't be loaded: {first_line(error)}",
            "Leave it out; or write a task of your own with its rows in a file (configs/README.md, 'Did it forget?')",
        )

    with trouble_told(told), kept_rows(keep) as used:
        load(manager, [task])
    size = sum(record.bytes for data in brought for record in data.open().files.values())
    came = f"{counted(len(brought), 'data set')} brought, {size / 2**20:,.1f} MiB" if brought else "there already"
    say(f"{safe(task, 200)}: {came if used else 'its rows come with it'}")


def _keep(data: SuiteData, load_rows: Load) -> None:
    from datasets.exceptions import DatasetNotFoundError

    name = safe(_source(data), 120)
    asked = Asked(
        kind="data set",
        name=name,
        revision=str(data.arguments.get("revision", "main")),
        key=_KEY,
        revision_key=_KEY,
        without_hub=f"leave {_KEY} empty",
        error=DataError,
    )
    with staged_folder(SUITE / "downloads") as temporary:
        try:
            with trouble_in_one_line(asked), _downloads_in(temporary):
                rows = load_rows(cache_dir=str(temporary), token=token())
        except DatasetNotFoundError as error:  # `datasets` keeps to itself what the hub's client had raised
            raise DataError(
                f"{name}, which a task of evaluation.suite loads, can't be had: {first_line(error)}",
                "If it is gated, accept its terms on its page on the hub and set HF_TOKEN in the environment",
            ) from error
        with data.bringing(_revision(rows), __version__) as folder:
            rows.save_to_disk(str(folder))


@contextmanager
def _downloads_in(folder: Path) -> Iterator[None]:
    """The files as they come from the hub: `cache_dir` says only where the tables go that are made of them."""
    from huggingface_hub import constants

    before = constants.HF_HUB_CACHE
    constants.HF_HUB_CACHE = str(folder / "hub")
    try:
        yield
    finally:
        constants.HF_HUB_CACHE = before


def _source(data: SuiteData) -> str:
    """The data set's name, or the first address where its rows are in files elsewhere."""
    address = re.search(r'[a-z0-9+]+://[^"\s]+', json.dumps(data.arguments))
    return address[0] if address else data.name


def _revision(rows: Any) -> str | None:
    """The commit, by which `datasets` names the folder of its cache."""
    splits = rows.values() if isinstance(rows, dict) else [rows]
    names = [part for split in splits for file in split.cache_files for part in Path(file["filename"]).parts]
    return next((name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)), None)
