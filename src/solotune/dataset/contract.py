"""The row: what a line of data/splits/*.jsonl is, and the rules that it keeps.

`checked_line` takes raw bytes and `checked_value` a converted record; both return a row that keeps every rule, or
raise a `RowProblem`. Typed decoding does most of the work in one pass; a row that may break a rule is looked at twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

import msgspec

from solotune.config.schema import Split
from solotune.dataset.diagnose import problem_of, problem_of_type
from solotune.dataset.duplicate_keys import refuse_duplicate_keys, repeats_may_be_hidden
from solotune.dataset.reasons import RowProblem

MAX_ID_CHARACTERS = 200


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What is known about a row besides its text. Every key may be absent; none may be null."""

    source: str = ""
    tags: tuple[str, ...] = ()
    split: Split | msgspec.UnsetType = msgspec.UNSET
    """The side on which the row's author wants it; absent: chosen by hash."""
    group: str = ""
    """Rows of one group are never divided; empty: those that begin alike are a group."""


NO_META = Meta()
# One object for both structs: `omit_defaults` asks whether a value *is* the default.


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A chat to learn from or to be measured on."""

    id: str
    messages: tuple[Message, ...]
    meta: Meta = NO_META


class RawRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A row as people write it: the id may be absent, and is then made from the messages."""

    messages: tuple[Message, ...]
    id: str | msgspec.UnsetType = msgspec.UNSET
    meta: Meta = NO_META


class Checked(msgspec.Struct, frozen=True, gc=False):
    """A row that keeps every rule, with what was made of it on the way."""

    row: Row
    encoded: bytes
    """Its canonical line, without the line break. The same row always gives the same bytes."""
    said: bytes
    """Its contents without the white space at their ends, a NUL between them, as UTF-8."""
    has_control_token: bool = False
    """Whether a content holds the text of a control token."""


_decode = msgspec.json.Decoder(RawRow).decode
_decode_with_id = msgspec.json.Decoder(Row).decode
_encode = msgspec.json.Encoder().encode
_content_of, _role_of = attrgetter("content"), attrgetter("role")
_QUOTES_OF_AN_ID = 4
_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_BAD_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_TOKEN = re.compile(r"<\|[\w./:-]{1,64}\|>|<｜[^｜<>\n]{1,64}｜>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
# All bytes of UTF-8 but those of bad characters and the first ones of control tokens. They are what most texts
# are made of, and nothing is faster than to delete them and see what is left.
_PLAIN = bytes({*b"\t\n\r", *range(0x20, 0x100)} - {*b"<[\x7f"})
_COMMON_ORDERS = frozenset(
    first + ("user", "assistant") * turns for first in ((), ("system",)) for turns in range(1, 9)
)


def decode(raw: bytes) -> Row:
    """The row in one line of JSON. Raises RowProblem."""
    return checked_line(raw).row


def checked_line(raw: bytes, *, control_tokens_as_text: bool = False) -> Checked:
    """The row in one line of JSON.

    Args:
        raw: the line.
        control_tokens_as_text: whether contents may hold the text of control tokens.

    Raises:
        RowProblem: it isn't one.
    """
    try:
        draft = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The failing line is read a second time, in an order that gives the same bytes the same code.
        raise problem_of(raw, RawRow) from None
    row = _with_id(draft)
    encoded = _encode(row)
    if encoded != raw:
        refuse_duplicate_keys(raw, encoded, _QUOTES_OF_AN_ID if draft.id is msgspec.UNSET else 0)
    return Checked(row, encoded, *_checked_contents(row, control_tokens_as_text))


def checked_lines(raws: Sequence[bytes]) -> list[Checked] | None:
    """The rows in many lines of JSON, proved together and so faster than one by one.

    Returns:
        What `checked_line` makes of each; None where any of them must be looked at by itself.
    """
    try:
        rows = list(map(_decode_with_id, raws))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    lines = list(map(_encode, rows))
    if lines != raws and repeats_may_be_hidden(b"".join(raws), b"".join(lines)):
        return None
    made, contents, in_meta = [], [], []
    for row, line in zip(rows, lines, strict=True):
        texts = list(map(_content_of, row.messages))
        stripped = list(map(str.strip, texts))
        if not _is_common(row, stripped):
            return None
        if row.meta is not NO_META:
            in_meta += [row.meta.source, row.meta.group, *row.meta.tags]
        said = "\0".join(stripped)
        contents += texts
        made.append(Checked(row, line, said.encode()))
    return made if _is_plain(contents, may_be_control_tokens=False) and _is_plain(in_meta) else None


def _is_plain(texts: list[str], *, may_be_control_tokens: bool = True) -> bool:
    """Whether no text has a character that none may have, nor, where that matters, the text of a control token."""
    text = "\0".join(texts)
    signs = text.encode().translate(None, _PLAIN)
    if signs.translate(None, b"\0<[") or signs.count(0) != max(0, len(texts) - 1):
        return False
    return may_be_control_tokens or len(signs) == signs.count(0) or not _CONTROL_TOKEN.search(text)


def checked_value(value: dict[str, Any], *, control_tokens_as_text: bool = False) -> Checked:
    """The row in a record that a format has converted; see `checked_line`.

    Raises:
        RowProblem: it isn't one.
    """
    try:
        draft = msgspec.convert(value, RawRow)
    except msgspec.ValidationError as error:
        raise problem_of_type(error) from None
    row = _with_id(draft)
    said, has_control_token = _checked_contents(row, control_tokens_as_text)
    return Checked(row, _encode(row), said, has_control_token)


def encode(row: Row) -> bytes:
    """The canonical line of a row, without its line break. The same row always gives the same bytes."""
    return _encode(row)


def check(row: Row, *, control_tokens_as_text: bool = False) -> bool:
    """The rules that types can't express. Returns whether a content holds the text of a control token.

    Raises:
        RowProblem: the first rule that is broken, in the order of the row.
    """
    if not 1 <= len(row.id) <= MAX_ID_CHARACTERS:
        raise RowProblem("bad_id", f"the id has {len(row.id):,} characters", "$.id")
    if _BAD_IN_ID.search(row.id):
        raise RowProblem("bad_id", "the id has a control character", "$.id")
    if not row.messages:
        raise RowProblem("empty_messages", "no messages", "$.messages")
    due, role, has_control_token = "user", "", False
    for i, message in enumerate(row.messages):
        role, content = message.role, message.content
        if role == due:
            due = "assistant" if role == "user" else "user"
        elif role != "system" or i > 0:
            raise RowProblem("bad_role_order", f"{role} where {due} is due", f"$.messages[{i}].role")
        if not content or content.isspace():
            raise RowProblem("empty_content", f"the {role}'s content is blank", f"$.messages[{i}].content")
        _check_characters(content, f"$.messages[{i}].content")
        found = _CONTROL_TOKEN.search(content)
        if found and not control_tokens_as_text:
            raise RowProblem("control_token", f"{found[0]} at character {found.start()}", f"$.messages[{i}].content")
        has_control_token = has_control_token or found is not None
    if role != "assistant":
        raise RowProblem("last_not_assistant", f"the last turn is the {role}'s", "$.messages[-1]")
    _check_characters(row.meta.source, "$.meta.source")
    _check_characters(row.meta.group, "$.meta.group")
    for i, tag in enumerate(row.meta.tags):
        _check_characters(tag, f"$.meta.tags[{i}]")
    return has_control_token


def _checked_contents(row: Row, control_tokens_as_text: bool) -> tuple[bytes, bool]:
    """`Checked.said` and `.has_control_token`, after proof that the row keeps the rules of `check`.

    Most rows are proved in a few steps over all of their text at once; those that may break a rule go through
    `check`.
    """
    texts = list(map(_content_of, row.messages))
    stripped = list(map(str.strip, texts))
    try:
        said = "\0".join(stripped).encode()
        text = said if stripped == texts else "\0".join(texts).encode()
    except UnicodeEncodeError:  # half a surrogate pair, from a record that wasn't JSON
        check(row, control_tokens_as_text=control_tokens_as_text)
        raise
    if not _is_common(row, stripped) or row.meta is not NO_META or len(text.translate(None, _PLAIN)) >= len(texts):
        return said, check(row, control_tokens_as_text=control_tokens_as_text)
    return said, False


def _is_common(row: Row, stripped: list[str]) -> bool:
    """Whether a row can't break a rule but by the characters of its contents, as most can't."""
    return (
        tuple(map(_role_of, row.messages)) in _COMMON_ORDERS
        and all(stripped)
        and 1 <= len(row.id) <= MAX_ID_CHARACTERS
        and row.id.isprintable()
        and (row.meta is NO_META or row.meta != NO_META)  # one that says nothing is written as nothing
    )


def _with_id(draft: RawRow) -> Row:
    row_id = content_id(draft.messages) if draft.id is msgspec.UNSET else draft.id
    return Row(row_id, draft.messages, NO_META if draft.meta == NO_META else draft.meta)


def content_id(messages: tuple[Message, ...]) -> str:
    """An id made of what is said, so that it stays the same wherever the row stands."""
    return "sha256-" + hashlib.sha256(_canonical(messages)).hexdigest()[:24]


def _canonical(messages: tuple[Message, ...]) -> bytes:
    # Half a surrogate pair is found later, by `check`; until then it must not stop the encoder.
    return "\x00".join(f"{m.role}\x00{m.content}" for m in messages).encode("utf-8", "surrogatepass")


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
