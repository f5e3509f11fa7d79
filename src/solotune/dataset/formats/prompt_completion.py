"""`prompt_completion`: {"prompt", "completion"}, each a text or a list of {"role", "content"}, as in TRL."""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, path_of, row, value
from solotune.dataset.formats.raw_names import Origin, Turn
from solotune.dataset.reasons import wrong_type

FIELDS = ("prompt", "completion", *COMMON)


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    asked = _side(record, columns, "prompt", "user")
    return row(record, columns, asked + _side(record, columns, "completion", "assistant"))


def origin(record: Record, columns: Columns) -> Origin:
    return Origin("$", [turn for field in ("prompt", "completion") for turn in _turns(record, columns, field)])


def _turns(record: Record, columns: Columns, field: str) -> list[Turn]:
    side, at = value(record, columns, field), path_of(columns, field)
    return [Turn(at, "", "")] if isinstance(side, str) else [Turn(f"{at}[{i}]") for i in range(len(side))]


def _side(record: Record, columns: Columns, field: str, role: str) -> list[Any]:
    side = value(record, columns, field)
    if isinstance(side, str):
        return [{"role": role, "content": side}]
    if isinstance(side, list):
        return side
    raise wrong_type("a string or an array of messages", type(side).__name__, path_of(columns, field))
