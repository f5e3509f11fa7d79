"""Reading a raw record by our field names, with problems told in the names of the raw file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from solotune.dataset.duplicate_keys import step
from solotune.dataset.readers.source import TableRow
from solotune.dataset.reasons import KINDS, RowProblem, shortened, wrong_type

Record = Mapping[str, Any]
Columns = Mapping[str, str]

COMMON = ("id", "meta", "source", "tags", "split", "group")
"""What every format but `messages` reads. The last four are those of meta, for files that can't nest."""

_NAMED = 8
"""Columns in a message."""


def path_of(columns: Columns, field: str) -> str:
    """The JSON path of a field in the raw record."""
    return step("$", columns.get(field, field))


def text(record: Record, columns: Columns, field: str) -> str:
    """A text that must be there."""
    column = columns.get(field, field)
    if column not in record:
        raise _missing(record, field, column)
    value = record[column]
    if not isinstance(value, str):
        raise wrong_type("str", type(value).__name__, step("$", column))
    return value


def optional_text(record: Record, columns: Columns, field: str) -> str | None:
    """A text that may be absent, null or empty: tables have no other way to say that there is none."""
    column = columns.get(field, field)
    value = record.get(column)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise wrong_type("str", type(value).__name__, step("$", column))
    return value


def value(record: Record, columns: Columns, field: str) -> Any:
    """Whatever a required field holds."""
    column = columns.get(field, field)
    if column not in record:
        raise _missing(record, field, column)
    return record[column]


def _missing(record: Record, field: str, column: str) -> RowProblem:
    remedy = None
    if record:
        here = ", ".join(map(shortened, islice(record, _NAMED)))
        if len(record) > _NAMED:
            here += f" and {len(record) - _NAMED:,} more"
        remedy = f"Add it, or name the right one with dataset.columns: {{{field}: COLUMN}}; the keys here are {here}"
    return RowProblem("missing_field", f"the key {column!r} is missing", remedy=remedy)


def row(record: Record, columns: Columns, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of these messages with the record's id (a whole number is taken as its digits) and meta."""
    made: dict[str, Any] = {"messages": messages, "meta": _meta(record, columns)}
    column = columns.get("id", "id")
    identifier = record.get(column)
    if isinstance(identifier, int) and not isinstance(identifier, bool):
        made["id"] = str(identifier)
    elif (identifier := optional_text(record, columns, "id")) is not None:
        made["id"] = identifier
    return made


def _meta(record: Record, columns: Columns) -> dict[str, Any]:
    column = columns.get("meta", "meta")
    given = record.get(column)
    if given == "" and isinstance(record, TableRow):
        given = None
    if given is not None and not isinstance(given, dict):
        raise wrong_type("dict", type(given).__name__, step("$", column))
    meta = {k: v for k, v in (given or {}).items() if v is not None}
    for field in ("source", "split", "group"):
        if (found := optional_text(record, columns, field)) is not None:
            meta[field] = found
    tags = record.get(columns.get("tags", "tags"))
    if isinstance(tags, str):
        tags = tags_of(tags) or None
    if tags is not None:
        meta["tags"] = tags
    return meta


def tags_of(cell: str) -> list[str]:
    """The tags in a text, which are divided by commas."""
    return [tag.strip() for tag in cell.split(",") if tag.strip()]


def shown(value: Any) -> str:
    """A value from data for a message: a text in quotation marks, all else as JSON has it; of bounded length."""
    if isinstance(value, str):
        return shortened(value)
    if value is None or isinstance(value, (bool, int, float)):
        text = json.dumps(value)
        return text if len(text) <= 60 else text[:59] + "…"
    return KINDS.get(type(value).__name__, type(value).__name__)
