"""`sharegpt`: {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}.

The key may be `conversation`, turns may be spelled {"role", "content"}, and a `system` text may stand beside them.
A further key in a turn (a weight, a tool call) would change what is learnt, so it is refused rather than dropped.
"""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, optional_text, path_of, row, shown, value
from solotune.dataset.formats.raw_names import Origin, Turn
from solotune.dataset.reasons import RowProblem, shortened, wrong_type

FIELDS = ("conversations", "conversation", "system", *COMMON)

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
}


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    long, short = (columns.get(field, field) for field in ("conversations", "conversation"))
    if record.get(long) is not None and record.get(short) is not None:
        raise RowProblem("unknown_field", f"both {shortened(long)} and {shortened(short)}", "$", "Remove one of them")
    field = _field(record, columns)
    at = path_of(columns, field)
    turns = value(record, columns, field)
    if not isinstance(turns, list):
        raise wrong_type("list", type(turns).__name__, at)
    messages = [_message(turn, f"{at}[{i}]") for i, turn in enumerate(turns)]
    if system := optional_text(record, columns, "system"):
        messages.insert(0, {"role": "system", "content": system})
    return row(record, columns, messages)


def origin(record: Record, columns: Columns) -> Origin:
    field = _field(record, columns)
    at = path_of(columns, field)
    keys = map(_keys, value(record, columns, field))
    turns = [Turn(f"{at}[{i}]", f".{role_key}", f".{text_key}") for i, (role_key, text_key) in enumerate(keys)]
    if optional_text(record, columns, "system"):
        turns.insert(0, Turn(path_of(columns, "system"), "", ""))
    return Origin(at, turns)


def _field(record: Record, columns: Columns) -> str:
    return "conversation" if record.get(columns.get("conversation", "conversation")) is not None else "conversations"


def _keys(turn: Record) -> tuple[str, str]:
    return ("from", "value") if "from" in turn or "value" in turn else ("role", "content")


def _message(turn: Any, at: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise wrong_type("dict", type(turn).__name__, at)
    role_key, text_key = _keys(turn)
    for key in (role_key, text_key):
        if key not in turn:
            raise RowProblem("missing_field", f"the key {key!r} is missing", at)
    further = sorted(turn.keys() - {role_key, text_key})
    if further:
        raise RowProblem("unknown_field", f"the key {shortened(further[0])} isn't part of a turn", at)
    role = turn[role_key]
    if not isinstance(role, str) or role not in _ROLES:
        allowed = "Write one of " + ", ".join(_ROLES)
        raise RowProblem("wrong_type", f"invalid value {shown(role)}", f"{at}.{role_key}", allowed)
    return {"role": _ROLES[role], "content": turn[text_key]}
