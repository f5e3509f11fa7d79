"""Tasks of lm-evaluation-harness by their names; read without torch."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from solotune.config.schema import SuiteConfig
from solotune.console import safe, say
from solotune.errors import ConfigError, DataError, MachineError, SolotuneError
from solotune.harness.suite_data import NotAllowed

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES}
_INSTALL = "Install it with `pip install 'solotune[suite]'`; the image and scripts/local.sh have it"


def task_manager(include_path: str | None, wanted: Sequence[str]) -> tuple[Any, list[str]]:
    """What finds tasks (lm_eval.tasks.TaskManager): the user's own, and those that come with it where one is wanted.

    Returns:
        It, and those of the wanted tasks that are the user's own.

    Raises:
        MachineError: lm-evaluation-harness isn't installed.
    """
    if find_spec("lm_eval") is None:
        raise MachineError("lm-evaluation-harness isn't installed", _INSTALL)
    _speak_safely()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include_path, include_defaults=False)
    own = [task for task in wanted if task in manager.all_tasks]
    if set(own) != set(wanted):
        say("looking through the tasks of lm-evaluation-harness")  # its index takes a quarter of a minute
        manager = TaskManager(include_path=include_path)
    return manager, own


def refuse_unknown(manager: Any, settings: SuiteConfig, wanted: Sequence[str], where: str) -> None:
    """Raises ConfigError where the manager finds no task of a name.

    Args:
        where: the key or option that has the names.
    """
    unknown = next((task for task in wanted if task not in manager.all_tasks), None)
    if unknown is not None:
        near = get_close_matches(unknown, manager.all_tasks, 3)
        meant = f"; did you mean {', '.join(safe(task, 60) for task in near)}?" if near else "."
        own = settings.include_path or "a folder of its YAML files, `--set evaluation.suite.include_path=FOLDER`"
        raise ConfigError(
            [f"{where}: lm-evaluation-harness has no task {unknown!r}{meant} A task of your own is found in {own}"]
        )


def load(manager: Any, tasks: Sequence[str]) -> None:
    """Loads tasks with their rows, as an evaluation does first; within `kept_rows`.

    Raises:
        NotAllowed: a metric of theirs is a program of the hub, which lm-evaluation-harness would find out at the end.
    """
    for name, task in manager.load(list(tasks))["tasks"].items():
        missing = [metric for metric, of in getattr(task, "_metric_fn_list", {}).items() if of is None]
        if missing and task.config.process_results is None:
            raise NotAllowed(f"{name} computes {missing[0]!r} with a program that would be downloaded from the hub")


@contextmanager
def trouble_told(told: Callable[[Exception], DataError]) -> Iterator[None]:
    """Tasks are programs and files of others: whatever they raise is told as one error, unless a disk said it."""
    try:
        yield
    except SolotuneError:
        raise
    except Exception as error:
        _refuse_disk(error)
        raise told(error) from error


def first_line(error: BaseException) -> str:
    """What an error of others says, harmless and short; the cause of one that says nothing itself."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__:
        error = error.__cause__
    said = safe(next(iter(str(error).strip().splitlines()), ""), 400).rstrip(".")
    return said if isinstance(error, NotAllowed) else f"{type(error).__name__}: {said}"


def _refuse_disk(error: BaseException | None) -> None:
    """Raises what a disk said, below what `datasets` made of it: that is no fault of a task."""
    while error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise error
        error = error.__cause__ or error.__context__


class _Safe(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """What a task's files may have put into it doesn't command the terminal."""
        return safe(super().format(record), 400)


def _speak_safely() -> None:
    """Of what it logs errors are shown, each as one harmless line."""
    logger = logging.getLogger("lm_eval")
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(_Safe("lm-evaluation-harness: %(message)s"))
    logger.handlers = [handler]
