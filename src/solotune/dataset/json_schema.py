"""The contract of a raw row as a JSON Schema: `python -m solotune.dataset.json_schema > schemas/row.schema.json`.

Types come from the structs of `contract`; what types can't say is added here where JSON Schema can say it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from solotune.dataset.contract import MAX_ID_CHARACTERS, RawRow

NOT_EXPRESSED = {
    "bad_role_order": "that user and assistant alternate: arrays have no such rule",
    "last_not_assistant": "who speaks last: items are counted from the first one only",
    "duplicate_key": "a validator sees the object, not how often a key was written",
    "lone_surrogate": "a validator sees text, and no text holds one",
    "invalid_utf8": "a validator sees values, not bytes",
    "invalid_json": "a validator sees values, not bytes",
    "bom_inside": "a validator sees values, not bytes",
    "nesting_too_deep": "a validator sees values, not bytes",
    "line_too_long": "a validator sees values, not lines",
    "duplicate_id": "a validator sees one row at a time",
}
"""Reason code -> what of the contract the schema leaves open; prepare checks it all the same."""

_CONTROL = "[\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f]"
_CONTROL_IN_ID = "[\\u0000-\\u001f\\u007f-\\u009f]"
_CONTROL_TOKEN = r"<\|[\p{L}\p{N}_./:-]{1,64}\|>|<｜[^｜<>\n]{1,64}｜>|<(start|end)_of_turn>|\[/?INST\]|<</?SYS>>"  # noqa: S105 - no password


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one raw row."""
    made = msgspec.json.schema(RawRow)
    definitions = made["$defs"]
    row, message, meta = (definitions[name]["properties"] for name in ("RawRow", "Message", "Meta"))
    row["id"] |= {"minLength": 1, "maxLength": MAX_ID_CHARACTERS, "not": {"pattern": _CONTROL_IN_ID}}
    turn = row["messages"]["items"]
    row["messages"] |= {
        "minItems": 2,
        "prefixItems": [turn | {"properties": {"role": {"enum": ["system", "user"]}}}],
        "items": turn | {"properties": {"role": {"enum": ["assistant", "user"]}}},
    }
    message["content"] |= {"pattern": _not_blank(), "not": {"pattern": f"{_CONTROL}|{_CONTROL_TOKEN}"}}
    for text in (meta["source"], meta["group"], meta["tags"]["items"]):
        text["not"] = {"pattern": _CONTROL}
    open_rules = "; ".join(f"{code}: {why}" for code, why in NOT_EXPRESSED.items())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A raw row of solotune",
        "$comment": "Made by `python -m solotune.dataset.json_schema`. "
        "The text of a control token is refused, as prepare does unless dataset.control_tokens is as_text. "
        f"Not in it, and checked by prepare: {open_rules}",
        **made,
    }


def text() -> str:
    """The file schemas/row.schema.json."""
    return json.dumps(schema(), indent=2) + "\n"


def _not_blank() -> str:
    """A pattern for text with something to see in it, by the white space of Python: engines disagree about \\S."""
    blank = (chr(point) for point in range(sys.maxunicode + 1) if chr(point).isspace())
    return "[^" + "".join(f"\\u{ord(character):04x}" for character in blank) + "]"


if __name__ == "__main__":
    sys.stdout.write(text())
