"""The row: what a line of data/splits/*.jsonl is, and the rules that it keeps.

`decode` takes raw bytes and `from_value` a converted record; both return a `Row` that keeps every rule, or
raise a `RowProblem`. Typed decoding does most of the work in one pass; a line that fails is looked at twice.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from solotune.config.schema import Split
from solotune.dataset.diagnose import problem_of, problem_of_type
from solotune.dataset.reasons import RowProblem

MAX_ID_CHARACTERS = 200


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is known about a row besides its text. Every key may be absent; none may be null."""

    source: str = ""
    tags: tuple[str, ...] = ()
    split: Split | msgspec.UnsetType = msgspec.UNSET
    """The side on which the row's author wants it; absent: chosen by hash."""


_NO_META = Meta()
# One object for both structs: `omit_defaults` asks whether a value *is* the default.


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A chat to learn from or to be measured on."""

    id: str
    messages: tuple[Message, ...]
    meta: Meta = _NO_META


class RawRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row as people write it: the id may be absent, and is then made from the messages."""

    messages: tuple[Message, ...]
    id: str | msgspec.UnsetType = msgspec.UNSET
    meta: Meta = _NO_META


_decode = msgspec.json.Decoder(RawRow).decode
_encode = msgspec.json.Encoder().encode
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BAD_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_ESCAPE = re.compile(rb"\\[ubf]")
_CONTROL_TOKEN = re.compile(r"<\|[\w./:-]{1,64}\|>|<(?:start|end)_of_turn>|\[/?INST\]")


def decode(raw: bytes) -> Row:
    """The row in one line of JSON.

    Raises:
        RowProblem: it isn't one.
    """
    try:
        draft = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The failing line is read a second time, in an order that gives the same bytes the same code.
        raise problem_of(raw, RawRow) from None
    return _finish(draft, scan=_may_hide_control_text(raw))


def from_value(value: dict[str, Any]) -> Row:
    """The row in a record that a format has converted.

    Raises:
        RowProblem: it isn't one.
    """
    try:
        draft = msgspec.convert(value, RawRow)
    except msgspec.ValidationError as error:
        raise problem_of_type(error) from None
    return _finish(draft, scan=True)


def encode(row: Row) -> bytes:
    """The canonical line of a row, without its line break. The same row always gives the same bytes."""
    return _encode(row)


def check(row: Row, *, scan: bool = True) -> None:
    """The rules that types can't express.

    Args:
        row: the row.
        scan: look for control characters and control tokens; False where its bytes can't hold any.

    Raises:
        RowProblem: the first rule that is broken, in the order of the row.
    """
    if not 1 <= len(row.id) <= MAX_ID_CHARACTERS:
        raise RowProblem("bad_id", f"the id has {len(row.id):,} characters", "$.id")
    if _BAD_IN_ID.search(row.id):
        raise RowProblem("bad_id", "the id has a control character", "$.id")
    if not row.messages:
        raise RowProblem("empty_messages", "no messages", "$.messages")
    due, role = "user", ""
    for i, message in enumerate(row.messages):
        role, content = message.role, message.content
        if role == due:
            due = "assistant" if role == "user" else "user"
        elif role != "system" or i > 0:
            raise RowProblem("bad_role_order", f"{role} where {due} is due", f"$.messages[{i}].role")
        if not content or content.isspace():
            raise RowProblem("empty_content", f"the {role}'s content is blank", f"$.messages[{i}].content")
        if scan:
            _check_characters(content, f"$.messages[{i}].content")
            _check_control_tokens(content, f"$.messages[{i}].content")
    if role != "assistant":
        raise RowProblem("last_not_assistant", f"the last turn is the {role}'s", "$.messages[-1]")
    if scan:
        _check_characters(row.meta.source, "$.meta.source")
        for i, tag in enumerate(row.meta.tags):
            _check_characters(tag, f"$.meta.tags[{i}]")


def _finish(draft: RawRow, *, scan: bool) -> Row:
    row_id = content_id(draft.messages) if draft.id is msgspec.UNSET else draft.id
    row = Row(row_id, draft.messages, draft.meta)
    check(row, scan=scan)
    return row


def content_id(messages: tuple[Message, ...]) -> str:
    """An id made of what is said, so that it stays the same wherever the row stands."""
    return "sha256-" + hashlib.sha256(_canonical(messages)).hexdigest()[:24]


def _canonical(messages: tuple[Message, ...]) -> bytes:
    # Half a surrogate pair is found later, by `check`; until then it must not stop the encoder.
    return "\x00".join(f"{m.role}\x00{m.content}" for m in messages).encode("utf-8", "surrogatepass")


def _may_hide_control_text(raw: bytes) -> bool:
    """Whether JSON bytes can hold what `scan` looks for: nine rows in ten can't, and are spared the search.

    JSON has no control characters but as escapes (\\b, \\f, \\uXXXX) and DEL, and each control token has one
    of three pieces. Single bytes are asked for first: finding none of them costs next to nothing.
    """
    return (
        b"\x7f" in raw
        or (b"<" in raw and (b"<|" in raw or b"_turn>" in raw))
        or (b"\\" in raw and _ESCAPE.search(raw) is not None)
        or b"INST]" in raw
    )


def _check_characters(text: str, at: str) -> None:
    found = _BAD_CHARACTER.search(text)
    if found is None:
        return
    code, point = "control_character", ord(found[0])
    if point == 0:
        code = "nul_character"
    elif point >= 0xD800:
        code = "lone_surrogate"
    raise RowProblem(code, f"U+{point:04X} at character {found.start()}", at)


def _check_control_tokens(content: str, at: str) -> None:
    if "<" not in content and "[" not in content:
        return
    found = _CONTROL_TOKEN.search(content)
    if found:
        raise RowProblem("control_token", f"{found[0]} at character {found.start()}", at)
