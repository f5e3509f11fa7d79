"""Rows of lm-evaluation-harness' tasks: loaded from the hub once, by `fetch`, and from data/hub/suite/ ever after.

Tasks call `datasets.load_dataset`. Its own offline cache won't do: it finds nothing that was asked for with
`data_files`, and writes locks beside what it reads, which a container sees read-only.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

from solotune.artifacts.suite_data import SuiteData, SuiteDataManifest

Load = Callable[..., Any]
"""`datasets.load_dataset` with a task's own arguments; further ones can be given."""
Bring = Callable[[SuiteData, Load], None]
"""Is called for rows that aren't in data/hub/suite/, and leaves them there."""

_NOT_OF_THE_ROWS = {"cache_dir", "download_mode", "num_proc", "streaming", "token", "trust_remote_code"}


class RowsMissing(Exception):
    """A task loads rows that `fetch` hasn't brought."""


class NotAllowed(Exception):
    """A task does what can't be kept for later, or downloads programs."""


@contextmanager
def kept_rows(bring: Bring | None = None) -> Iterator[dict[str, SuiteDataManifest]]:
    """While it lasts, `datasets.load_dataset` returns what is kept for a call with its arguments.

    Programs of the hub, which `evaluate.load` would download and run, are refused.

    Args:
        bring: for what isn't kept. None: `datasets` is asked, which looks on this machine alone when offline.

    Yields:
        What was read, by the name of its folder.
    """
    import datasets
    import evaluate

    root = Path(datasets.config.HF_DATASETS_CACHE)
    root.mkdir(parents=True, exist_ok=True)
    load, load_kept = _both()
    load_program = evaluate.load
    with tempfile.TemporaryDirectory(prefix="solotune-suite-", dir=root) as folder:
        rows = _Rows(Path(folder), bring)
        before = _active.set(rows)
        datasets.load_dataset, evaluate.load = load_kept, _refuse_program
        try:
            yield rows.used
        finally:
            datasets.load_dataset, evaluate.load = load, load_program
            _active.reset(before)


class _Rows:
    def __init__(self, folder: Path, bring: Bring | None) -> None:
        self.used: dict[str, SuiteDataManifest] = {}
        self._folder, self._bring = folder, bring

    def load(self, load: Load, path: str, name: str | None, arguments: dict[str, Any]) -> Any:
        if _is_here(path, arguments):
            return load(path, name, **arguments)
        of_rows = {key: value for key, value in arguments.items() if value is not None and key not in _NOT_OF_THE_ROWS}
        kept = SuiteData(path, name, _plain(of_rows))
        if not kept.is_complete and self._bring:
            self._bring(kept, lambda **more: load(path, name, **of_rows, **more))
        if not kept.is_complete:
            try:
                return load(path, name, **arguments)
            except Exception as error:
                raise RowsMissing(path) from error
        self.used[kept.path.name] = kept.open()
        return self._opened(kept)

    def _opened(self, kept: SuiteData) -> Any:
        """From links to the files: `datasets` writes what it derives from rows beside them, and has to find it again.

        lm-evaluation-harness derives a task's rows twice, for the questions and for the scores; those that shuffle
        would come in another order.
        """
        import datasets

        links = self._folder / kept.path.name
        if not links.is_dir():
            shutil.copytree(kept.rows.absolute(), links, copy_function=lambda file, link: Path(link).symlink_to(file))
        return datasets.load_from_disk(str(links))


_active: ContextVar[_Rows | None] = ContextVar("rows", default=None)


@cache
def _both() -> tuple[Load, Load]:
    """`datasets.load_dataset`, and what stands in for it: one function, as tasks' modules keep what they imported."""
    import datasets

    load = datasets.load_dataset
    parameters = signature(load)

    def load_kept(*positional: Any, **named: Any) -> Any:
        rows = _active.get()
        if rows is None:
            return load(*positional, **named)
        given = dict(parameters.bind(*positional, **named).arguments)
        given |= given.pop("config_kwargs", {})
        return rows.load(load, given.pop("path"), given.pop("name", None), given)

    return load, load_kept


def _is_here(path: str, arguments: dict[str, Any]) -> bool:
    """Whether the rows are in files on this machine, which are nobody's to keep."""
    from datasets import packaged_modules

    return (path in packaged_modules._PACKAGED_DATASETS_MODULES or Path(path).exists()) and "://" not in str(arguments)


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    from datasets import Features, NamedSplit

    def plain(value: Any) -> Any:
        if isinstance(value, NamedSplit | Path):
            return str(value)
        raise NotAllowed(f"its rows are asked for with {type(value).__name__} objects, and can't be kept")

    # Features are a dict, of objects.
    told = {key: value.to_dict() if isinstance(value, Features) else value for key, value in arguments.items()}
    made: dict[str, Any] = json.loads(json.dumps(told, default=plain))
    return made


def _refuse_program(path: str, *_: Any, **__: Any) -> Any:
    raise NotAllowed(f"it computes with {path!r}, a program that would be downloaded from the hub")
