"""`openai_chat`: OpenAI's chat fine-tuning files, {"messages": [{"role", "content", "weight", …}], "tools": […]}.

`developer` is today's name for the system role. What a row can't say is refused rather than dropped, for it would
change what is learnt: tool calls and their answers, pictures, names, and a weight that takes a turn out of the
loss, or one into it. A key that is null is an absent key.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, path_of, row, shown, value
from solotune.dataset.formats.raw_names import Origin, Turn
from solotune.dataset.reasons import RowProblem, shortened, wrong_type

FIELDS = ("messages", "tools", "functions", *COMMON)

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TOOLS = "Rows hold text only: write the calls and their answers as text into the turns, or remove the row"
_REMEDIES = {
    "tool_calls": _TOOLS,
    "function_call": _TOOLS,
    "tool_call_id": _TOOLS,
    "name": "Write the name into the content, or remove it",
    "refusal": "Write the refusal as the content",
}


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    for field in ("tools", "functions"):
        column = columns.get(field, field)
        if record.get(column):
            raise RowProblem("unknown_field", "a row offers no tools", path_of(columns, field), _TOOLS)
    at = path_of(columns, "messages")
    turns = value(record, columns, "messages")
    if not isinstance(turns, list):
        raise wrong_type("list", type(turns).__name__, at)
    return row(record, columns, [_message(turn, f"{at}[{i}]") for i, turn in enumerate(turns)])


def origin(record: Record, columns: Columns) -> Origin:
    at = path_of(columns, "messages")
    turns = value(record, columns, "messages")
    return Origin(at, [_turn(turn["content"], f"{at}[{i}]") for i, turn in enumerate(turns)])


def _turn(content: Any, at: str) -> Turn:
    if not isinstance(content, list):
        return Turn(at)
    starts = accumulate((len(part["text"]) for part in content), initial=0)
    pieces = ((start, f"{at}.content[{i}].text") for i, start in zip(range(len(content)), starts, strict=False))
    return Turn(at, pieces=tuple(pieces))


def _message(turn: Any, at: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise wrong_type("dict", type(turn).__name__, at)
    given = {key: item for key, item in turn.items() if item is not None}
    role = given.pop("role", None)
    if role in ("tool", "function"):
        raise RowProblem("wrong_type", f"a turn of role {role!r}", f"{at}.role", _TOOLS)
    if not isinstance(role, str) or role not in _ROLES:
        allowed = "Write one of " + ", ".join(_ROLES)
        raise RowProblem("wrong_type", f"invalid value {shown(role)}", f"{at}.role", allowed)
    content = given.pop("content", None)
    _check_weight(given.pop("weight", None), role, at)
    if given:
        key = min(given)
        remedy = _REMEDIES.get(key, "Remove it")
        raise RowProblem("unknown_field", f"the key {shortened(key)} isn't part of a turn", at, remedy)
    if content is None:
        raise RowProblem("missing_field", "the key 'content' is missing or null", at)
    return {"role": _ROLES[role], "content": _text(content, f"{at}.content")}


def _check_weight(weight: Any, role: str, at: str) -> None:
    """Every turn of the assistant is learnt, and no other: a weight may say this, and nothing else."""
    learnt = role == "assistant"
    if weight is None or (not isinstance(weight, bool) and weight == int(learnt)):
        return
    remedy = (
        "Every turn of the assistant is learnt here: end the row before this turn, or remove the weight"
        if learnt
        else "Only turns of the assistant are learnt: remove the weight"
    )
    raise RowProblem("wrong_type", f"weight {shown(weight)} on a turn of the {role}", f"{at}.weight", remedy)


def _text(content: Any, at: str) -> Any:
    """A content as text; one in parts is put together."""
    if not isinstance(content, list):
        return content
    parts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            raise RowProblem("wrong_type", "a part that isn't text", f"{at}[{i}]", "Rows hold text only: remove it")
        if not isinstance(part["text"], str):
            raise wrong_type("str", type(part["text"]).__name__, f"{at}[{i}].text")
        parts.append(part["text"])
    return "".join(parts)
