"""`messages`: the contract itself, {"id", "messages": [{"role", "content"}], "meta"}."""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import Columns, Record, path_of, value
from solotune.dataset.formats.raw_names import Origin, Turn

FIELDS = ("id", "messages", "meta")


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    made = {"messages": value(record, columns, "messages")}
    for field in ("id", "meta"):
        column = columns.get(field, field)
        if column in record:
            made[field] = record[column]
    return made


def origin(record: Record, columns: Columns) -> Origin:
    at = path_of(columns, "messages")
    turns = value(record, columns, "messages")
    return Origin(at, [Turn(f"{at}[{i}]") for i in range(len(turns) if isinstance(turns, list) else 0)])
