"""Rows of the tasks in evaluation.suite.tasks -> data/hub/suite/, where `evaluate --suite` finds them offline."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from solotune import __version__
from solotune.artifacts.data_dir import ROOT
from solotune.artifacts.files import make_folder, remove_staged
from solotune.artifacts.lock import held
from solotune.artifacts.suite_data import ROOT as SUITE
from solotune.artifacts.suite_data import SuiteData
from solotune.config.schema import SuiteConfig
from solotune.console import counted, safe, say
from solotune.errors import DataError, SolotuneError
from solotune.harness.suite import first_line, refuse_unknown, task_manager
from solotune.harness.suite_data import Load, kept_rows
from solotune.stages.fetch.hub import Asked, token, trouble_in_one_line

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES}


def bring(settings: SuiteConfig) -> None:
    """Loads each task as `evaluate` will, and keeps the rows that it asks for; those that are there stay.

    Tasks of the user's own are left out: their rows lie in files.

    Raises:
        MachineError: lm-evaluation-harness isn't installed.
        ConfigError: there is no task of that name, nor a folder for own ones.
        DataError: a task's rows can't be found or reached, or can't be kept.
    """
    manager = task_manager(None, settings.tasks)
    own = [task for task in settings.tasks if task not in manager.all_tasks]
    if own and settings.include_path is None:
        refuse_unknown(manager, settings, own)
    if own:
        names = ", ".join(safe(task, 60) for task in own)
        say(f"{names}: taken for {'a task' if len(own) == 1 else 'tasks'} of your own, with rows in files")
    make_folder(SUITE)
    with held(ROOT, "fetch (evaluation.suite)"):
        remove_staged(SUITE)
        for task in (task for task in settings.tasks if task not in own):
            _bring(manager, task)


def _bring(manager: Any, task: str) -> None:
    brought: list[SuiteData] = []

    def keep(data: SuiteData, load: Load) -> None:
        _keep(data, load)
        brought.append(data)

    try:
        with kept_rows(keep) as used:
            manager.load([task])
    except SolotuneError:
        raise
    except Exception as error:  # its tasks are programs and files of others
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        raise DataError(
            f"evaluation.suite.tasks: {safe(task, 60)} can't be loaded: {first_line(error)}",
            "Leave it out; or write a task of your own with its rows in a file (configs/README.md, 'Did it forget?')",
        ) from error
    size = sum(record.bytes for data in brought for record in data.open().files.values())
    came = f"{counted(len(brought), 'data set')} brought, {size / 2**20:,.1f} MiB" if brought else "there already"
    say(f"{safe(task, 60)}: {came if used else 'its rows come with it'}")


def _keep(data: SuiteData, load: Load) -> None:
    from datasets.exceptions import DatasetNotFoundError

    asked = Asked(
        kind="data set",
        name=data.name,
        revision="main",
        key="evaluation.suite.tasks",
        revision_key="evaluation.suite.tasks",
        without_hub="leave evaluation.suite.tasks empty",
        error=DataError,
    )
    temporary = Path(tempfile.mkdtemp(prefix=".staged-", dir=SUITE))
    try:
        with trouble_in_one_line(asked):
            rows = load(data.name, data.config, **data.arguments, cache_dir=str(temporary), token=token())
        with data.bringing(_revision(rows), __version__) as folder:
            rows.save_to_disk(str(folder))
    except DatasetNotFoundError as error:
        said = first_line(error).rstrip(".")
        raise DataError(
            f"{safe(data.name, 120)}, which a task of evaluation.suite loads, can't be had: {said}",
            "If it is gated, accept its terms on its page on the hub and set HF_TOKEN in the environment",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _revision(rows: Any) -> str | None:
    """The commit, by which `datasets` names the folder of its cache."""
    splits = rows.values() if isinstance(rows, dict) else [rows]
    names = [part for split in splits for file in split.cache_files for part in Path(file["filename"]).parts]
    return next((name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)), None)
