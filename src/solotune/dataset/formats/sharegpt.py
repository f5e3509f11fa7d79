"""`sharegpt`: {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}.

The key may be `conversation`, turns may be spelled {"role", "content"}, and a `system` text may stand beside them.
A further key in a turn (a weight, a tool call) would change what is learnt, so it is refused rather than dropped.
"""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, optional_text, row, value
from solotune.dataset.reasons import RowProblem, shortened

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
    field = "conversation" if record.get(short) is not None else "conversations"
    at = f"$.{columns.get(field, field)}"
    turns = value(record, columns, field)
    if not isinstance(turns, list):
        raise RowProblem("wrong_type", f"expected an array, got {type(turns).__name__}", at)
    messages = [_message(turn, f"{at}[{i}]") for i, turn in enumerate(turns)]
    if system := optional_text(record, columns, "system"):
        messages.insert(0, {"role": "system", "content": system})
    return row(record, columns, messages)


def _message(turn: Any, at: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowProblem("wrong_type", f"expected an object, got {type(turn).__name__}", at)
    role_key, text_key = ("from", "value") if "from" in turn or "value" in turn else ("role", "content")
    for key in (role_key, text_key):
        if key not in turn:
            raise RowProblem("missing_field", f"the key {key!r} is missing", at)
    further = sorted(turn.keys() - {role_key, text_key})
    if further:
        raise RowProblem("unknown_field", f"the key {shortened(further[0])} isn't part of a turn", at)
    role = turn[role_key]
    if not isinstance(role, str) or role not in _ROLES:
        allowed = "Write one of " + ", ".join(_ROLES)
        raise RowProblem("wrong_type", f"invalid value {shortened(str(role))}", f"{at}.{role_key}", allowed)
    return {"role": _ROLES[role], "content": turn[text_key]}
