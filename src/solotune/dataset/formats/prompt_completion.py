"""`prompt_completion`: {"prompt", "completion"}, each a text or a list of {"role", "content"}, as in TRL."""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, row, value
from solotune.dataset.reasons import RowProblem

FIELDS = ("prompt", "completion", *COMMON)


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    asked = _side(record, columns, "prompt", "user")
    return row(record, columns, asked + _side(record, columns, "completion", "assistant"))


def _side(record: Record, columns: Columns, field: str, role: str) -> list[Any]:
    side = value(record, columns, field)
    if isinstance(side, str):
        return [{"role": role, "content": side}]
    if isinstance(side, list):
        return side
    at = f"$.{columns.get(field, field)}"
    raise RowProblem("wrong_type", f"expected text or an array of messages, got {type(side).__name__}", at)
