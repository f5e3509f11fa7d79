"""What a run's config says, and where it says something of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from solotune.config.schema import RunConfig
from solotune.report.gathered import flat

_NO_DEFAULT = object()
_REQUIRED = ("dataset.raw_files", "model.name_or_path", "model.revision")


def own_settings(settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value, default) of each key that differs from its default, or has none; in the config's order."""
    defaults = _defaults()
    return [
        (
            key,
            shown_value(value),
            "" if (default := defaults.get(key, _NO_DEFAULT)) is _NO_DEFAULT else shown_value(default),
        )
        for key, value in settings.items()
        if value != defaults.get(key, _NO_DEFAULT)
    ]


def differing(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that don't have the same value in all runs."""
    keys = dict.fromkeys(key for settings in runs for key in settings)
    return [key for key in keys if any(settings.get(key) != runs[0].get(key) for settings in runs)]


def shown_value(value: Any) -> str:
    """As YAML would have it, on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown_value(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _defaults() -> dict[str, Any]:
    """Of every key that has one."""
    model = {"name_or_path": "a/b", "revision": "0" * 40}
    made = flat(RunConfig.model_validate({"dataset": {"raw_files": ["a"]}, "model": model}).model_dump(mode="json"))
    return {key: value for key, value in made.items() if key not in _REQUIRED}
