"""`messages`: the contract itself, {"id", "messages": [{"role", "content"}], "meta"}."""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import Columns, Record, value

FIELDS = ("id", "messages", "meta")


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    made = {"messages": value(record, columns, "messages")}
    for field in ("id", "meta"):
        column = columns.get(field, field)
        if column in record:
            made[field] = record[column]
    return made
