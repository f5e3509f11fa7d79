"""Rows of lm-evaluation-harness' tasks: loaded from the hub once, by `fetch`, and from data/hub/suite/ ever after."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solotune.artifacts.suite_data import SuiteData, SuiteDataManifest

Load = Callable[..., Any]
"""datasets.load_dataset, or what stands in for it."""
Bring = Callable[[SuiteData, Load], None]
"""Fills a folder that isn't there."""

_NOT_OF_THE_ROWS = {"cache_dir", "download_mode", "num_proc", "token", "trust_remote_code"}


@contextmanager
def kept_rows(bring: Bring | None = None) -> Iterator[dict[str, SuiteDataManifest]]:
    """While it lasts, `datasets.load_dataset`, which tasks call, returns what is kept for a call with its arguments.

    The offline cache of `datasets` won't do: it finds nothing that was asked for with `data_files`, and writes locks
    and derived rows beside what it reads, which a container sees read-only.

    Args:
        bring: is called for what isn't kept; None: `datasets` is asked, which looks on this machine alone when
            offline.

    Yields:
        What was read, by the name of its folder.
    """
    import datasets

    load, was_caching = datasets.load_dataset, datasets.is_caching_enabled()
    used: dict[str, SuiteDataManifest] = {}

    def load_kept(path: str, name: str | None = None, **arguments: Any) -> Any:
        kept = _kept(path, name, arguments)
        if kept and bring and not kept.is_complete:
            bring(kept, load)
        if kept is None or not kept.is_complete:
            return load(path, name, **arguments)
        used[kept.path.name] = kept.open()
        return datasets.load_from_disk(str(kept.rows))

    datasets.load_dataset = load_kept
    datasets.disable_caching()  # derived rows go to a temporary folder
    try:
        yield used
    finally:
        datasets.load_dataset = load
        if was_caching:
            datasets.enable_caching()


def _kept(path: str, name: str | None, arguments: dict[str, Any]) -> SuiteData | None:
    """None: rows of files on this machine, which are nobody's to keep."""
    from datasets import packaged_modules

    of_rows = {key: value for key, value in arguments.items() if value is not None and key not in _NOT_OF_THE_ROWS}
    try:
        is_elsewhere = "://" in json.dumps(of_rows)
    except TypeError:  # an object, by which nothing can be found again
        return None
    is_here = path in packaged_modules._PACKAGED_DATASETS_MODULES or Path(path).exists()
    return None if is_here and not is_elsewhere else SuiteData(path, name, of_rows)
