"""What a row is, and the reason code of everything that isn't one."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.dataset.contract import (
    Message,
    Meta,
    Row,
    checked_line,
    checked_value,
    content_id,
    decode,
    encode,
)
from solotune.dataset.diagnose import load_object
from solotune.dataset.reasons import REASONS, RowProblem

BOM = b"\xef\xbb\xbf"
USER = {"role": "user", "content": "Hello?"}
REPLY = {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}


def line(*messages: dict, **changes: object) -> bytes:
    row = {"id": "a", "messages": list(messages or (USER, REPLY)), **changes}
    return json.dumps({k: v for k, v in row.items() if v is not ...}).encode()


def said(content: str) -> bytes:
    return line({"role": "user", "content": content}, REPLY)


def raw_said(content: bytes) -> bytes:
    """A row whose content holds these bytes of JSON, as they are."""
    return said("CONTENT").replace(b"CONTENT", content)


BROKEN: dict[str, list[bytes]] = {
    "invalid_utf8": [raw_said(b"\xff"), raw_said(b"\xed\xa0\x80"), line().decode().encode("utf-16"), b"\xc3"],
    "invalid_json": [
        line()[:-1],
        line() + b"x",
        line() + line(),
        b"{'id': 'a'}",
        b"",
        raw_said(b"\x00"),
        raw_said(b"\t"),
        raw_said(b"\\x"),
        line(meta={"source": float("nan")}),
        line(meta={"source": float("inf")}),
        line(meta={"source": "N"}).replace(b'"N"', b"1e999"),
        line(meta={"source": "N"}).replace(b'"N"', b"1" * 5000),
    ],
    "bom_inside": [BOM + line(), b" " + BOM + line(), line() + BOM, line().replace(b": ", b": " + BOM, 1)],
    "duplicate_key": [
        line().replace(b'"id"', b'"id": "b", "id"'),
        line().replace(b'"id"', b'"\\u0069d": "b", "id"'),
        line().replace(b'"id"', b'"\\u0069\\u0064": "b", "i\\u0064"'),
        line().replace(b'"role"', b'"role": "user", "role"', 1),
        line().replace(b'"content"', b'"content": "\\u0022\\u0022", "content"', 1),
        line().replace(b'"messages"', b'"messages": [], "messages"'),
        line(id=...).replace(b'"messages"', b'"messages": [{}], "messages"'),
        line(id=...).replace(b'"messages"', b'"meta": {}, "meta": {}, "messages"'),
        line(meta={"source": "s"}).replace(b'"source"', b'"source": "", "source"'),
        line(id=7).replace(b'"id"', b'"id": "b", "id"'),
        b'{"id": "a", "id": NaN}'.replace(b"NaN", b"{}"),
    ],
    "nesting_too_deep": [
        b"[" * 100_000,
        line(meta={"source": "N"}).replace(b'"N"', b"[" * 100_000 + b"]" * 100_000),
    ],
    "missing_field": [line(messages=...), line({"role": "user"}, REPLY), line({"content": "x"}, REPLY)],
    "unknown_field": [line(note="x"), line({**USER, "weight": 0}, REPLY), line(meta={"lang": "en"})],
    "wrong_type": [
        b"null",
        b"[]",
        b"7",
        line(id=7),
        line(id=None),
        line(messages={}),
        line(messages=None),
        line("Hello?", REPLY),
        line({"role": "user", "content": None}, REPLY),
        line({"role": "user", "content": 5}, REPLY),
        line({"role": "tool", "content": "x"}, REPLY),
        line(meta=None),
        line(meta={"tags": "x"}),
        line(meta={"tags": [1]}),
        line(meta={"split": "dev"}),
        line(meta={"split": None}),
    ],
    "bad_id": [line(id=""), line(id="x" * 201), line(id="a\nb"), line(id="a\x00"), line(id="a\x85b")],
    "empty_messages": [line(messages=[])],
    "bad_role_order": [
        line(REPLY),
        line(REPLY, USER, REPLY),
        line(USER, USER, REPLY),
        line(USER, REPLY, REPLY),
        line(USER, SYSTEM, REPLY),
        line(SYSTEM, SYSTEM, USER, REPLY),
        line(SYSTEM, REPLY),
    ],
    "last_not_assistant": [line(USER), line(SYSTEM), line(SYSTEM, USER), line(USER, REPLY, USER)],
    "empty_content": [said(""), said(" \n\t"), said("\u00a0\u2003"), line(USER, {**REPLY, "content": ""})],
    "lone_surrogate": [
        raw_said(b"\\ud800"),
        raw_said(b"\\udc00 tail"),
        raw_said(b"\\ud83d\\u0041"),
        line(meta={"tags": ["\ud800"]}),
        line(id="\udfff"),
        line(note={"\udfff": 1}),
    ],
    "nul_character": [said("a\x00b"), line(meta={"source": "\x00"}), line(meta={"tags": ["x", "\x00"]})],
    "control_character": [said(f"a{chr(c)}b") for c in (*range(1, 9), 11, 12, *range(14, 32), 127)],
    "control_token": [
        said(f"see {token} here")
        for token in (
            *(
                "<|im_end|>",
                "<|im_start|>",
                "<|endoftext|>",
                "<|start_header_id|>",
                "<|reserved_special_token_0|>",
            ),
            *("<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
            *("<｜User｜>", "<｜end▁of▁sentence｜>"),
        )
    ]
    + [raw_said(b"\\u003c|im_end|>"), raw_said(b"[\\/INST]"), line(USER, {**REPLY, "content": "<|eot_id|>"})],
}


@pytest.mark.parametrize(("code", "raw"), [(code, raw) for code, raws in BROKEN.items() for raw in raws])
def test_a_broken_line_has_its_reason_code(code: str, raw: bytes) -> None:
    with pytest.raises(RowProblem) as caught:
        decode(raw)
    assert caught.value.code == code


def test_reasons_of_the_reader_aside_every_code_has_cases() -> None:
    """line_too_long and invalid_csv are the readers', duplicate_id needs two rows."""
    assert all(BROKEN.values())
    assert BROKEN.keys() == REASONS.keys() - {"line_too_long", "invalid_csv", "duplicate_id"}


def test_every_reason_says_what_to_do() -> None:
    assert all(reason.means and reason.remedy for reason in REASONS.values())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (line({"role": "user"}, REPLY), "$.messages[0]: the key 'content' is missing. Add it"),
        (line(id=7), "$.id: expected a string, got a number. Write a string"),
        (line(id=None), "$.id: expected a string, got null. Write a string"),
        (line(meta={"source": True}), "$.meta.source: expected a string, got true or false. Write a string"),
        (line("q"), "$.messages[0]: expected an object, got a string. Write an object"),
        (line(messages={}), "$.messages: expected an array, got an object. Write an array"),
        (line(meta={"tags": 0.5}), "$.meta.tags: expected an array, got a number. Write an array"),
        (line(meta={"split": None}), "$.meta.split: expected a string, got null. Write one of train, val, test"),
        (
            line({"role": [], "content": "x"}),
            "$.messages[0].role: expected a string, got an array. Write one of",
        ),
        (b"[]", "$: expected an object, got an array. Write an object"),
        (line(USER, USER, REPLY), "$.messages[1].role: user where assistant is due. The order is: system"),
        (
            line(USER, REPLY, {**USER, "weight": 1}),
            "$.messages[2]: the key 'weight' isn't part of a row. Keys here",
        ),
        (
            line({"role": "bot", "content": "x"}),
            "$.messages[0].role: invalid value 'bot'. Write one of system, user",
        ),
        (line({"role": "User", "content": "x"}), "$.messages[0].role: invalid value 'User'. Write one of"),
        (line({"role": " - at `$.x", "content": "x"}), "$.messages[0].role: invalid value ' - at `$.x'. Write one"),
        (line(meta={" - at `$.x": 1}), "$.meta: the key ' - at `$.x' isn't part of a row. Keys here are source"),
        (line(meta={"split": "dev"}), "$.meta.split: invalid value 'dev'. Write one of train, val, test"),
        (raw_said(b"\xff"), "line: byte 0xff at position 54. Save the file as UTF-8"),
        (raw_said(b"\\ud800"), "$.messages[0].content: half a surrogate pair"),
        (line()[:-3], "line: the line ends too early"),
        (BOM + line(), "line: U+FEFF at character 0. Remove it: it may stand at the start of a file only"),
        (
            line().replace(b'"role"', b'"r\\u006fle": "user", "role"', 1),
            "$.messages[0].role: the key 'role' is there twice. Remove one of the two",
        ),
        (b'{"id": "a", "m e": 1, "m e": 2}', "$['m e']: the key 'm e' is there twice"),
        (said("x" * 30 + "\x1b[2J"), "$.messages[0].content: U+001B at character 30. Remove it"),
        (said("a <|im_end|>"), "$.messages[0].content: <|im_end|> at character 2."),
    ],
)
def test_a_message_names_the_place_and_the_remedy(raw: bytes, message: str) -> None:
    with pytest.raises(RowProblem) as caught:
        decode(raw)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("raw", [line(**{"x" * 100_000: 1}), line({"role": "x" * 100_000, "content": "q"})])
def test_a_message_never_repeats_data_of_any_length(raw: bytes) -> None:
    with pytest.raises(RowProblem) as caught:
        decode(raw)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "raw",
    [
        line(),
        line(SYSTEM, USER, REPLY, USER, REPLY),
        line(meta={}),
        line(meta={"source": "s", "tags": ["a", "b"], "split": "val"}),
        line(id="x" * 200),
        line(id="Größe/../ü 1"),
        said("tab\t, line\nbreak, \r\n, \u2028, \U0001f600 and e\u0301"),
        said("a <| b |> c, x < y, f[INST_1], [ INST ], <|>, <| spaced |>, \\u0000 as text, <start_of_turn"),
        b"  " + line() + b" \r",
    ],
)
def test_a_good_line_is_a_row(raw: bytes) -> None:
    row = decode(raw)
    expected = json.loads(raw)
    assert row.id == expected["id"]
    assert [m.content for m in row.messages] == [m["content"] for m in expected["messages"]]


def test_a_row_without_id_gets_one_from_what_it_says() -> None:
    made = decode(line(id=...))
    assert made.id == "sha256-" + made.id.removeprefix("sha256-")[:24]
    assert made.id == decode(line(id=..., meta={"source": "elsewhere"})).id
    assert made.id != decode(line({**USER, "content": "Hello"}, REPLY, id=...)).id


def test_a_content_id_tells_turns_apart() -> None:
    one = (Message("user", "a"), Message("assistant", "b"))
    other = (Message("user", "ab"), Message("assistant", ""))
    assert content_id(one) != content_id(other)


def test_null_is_never_a_value() -> None:
    for changes in ({"meta": None}, {"meta": {"source": None}}, {"meta": {"tags": None}}, {"id": None}):
        with pytest.raises(RowProblem):
            decode(line(**changes))


def test_an_unset_split_is_not_written() -> None:
    assert b"split" not in encode(decode(line(meta={"source": "s"})))
    assert encode(decode(line(meta={"split": "test"}))).endswith(b'"meta":{"split":"test"}}')


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
clean_texts = texts.filter(lambda t: "<" not in t and "[" not in t)
metas = st.builds(
    Meta, clean_texts, st.lists(clean_texts, max_size=3).map(tuple), st.sampled_from(["train", "val", "test"])
)
chats = st.lists(st.tuples(clean_texts, clean_texts), min_size=1, max_size=3).map(
    lambda turns: tuple(Message(r, c) for t in turns for r, c in zip(("user", "assistant"), t, strict=True))
)
rows = st.builds(Row, st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200), chats, metas)


@settings(max_examples=60)
@given(rows)
def test_what_is_encoded_decodes_to_the_same_row_and_the_same_bytes(row: Row) -> None:
    raw = encode(row)
    assert decode(raw) == row
    assert encode(decode(raw)) == raw
    assert checked_value(msgspec.to_builtins(row)).row == row
    assert decode(json.dumps(json.loads(raw)).encode()) == row  # \u escapes, other spacing


@settings(max_examples=150)
@given(
    st.text(st.sampled_from('a"\\u0022:,{}é'), min_size=1, max_size=12),
    st.sampled_from(["id", "messages", "meta", "role", "content", "source", "tags", "split", "group"]),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_a_key_given_twice_is_never_passed_over(
    text: str, key: str, escape: list[bool], has_id: bool, ascii_only: bool
) -> None:
    """Whatever the contents hold and however the second one is spelled."""
    value = {"messages": [{"role": "user", "content": text}, REPLY], "meta": {"source": text, "tags": [text]}}
    value["meta"] |= {"split": "val", "group": "g"}
    if has_id:
        value["id"] = "a"
    plain = json.dumps(value, ensure_ascii=ascii_only).encode()
    decode(plain)
    spelled = "".join(f"\\u{ord(c):04x}" if e else c for c, e in zip(key, escape, strict=False))
    at = re.search(rf'(?<=[{{ ])"{key}": '.encode(), plain)
    if at is None:
        return
    again = json.JSONDecoder().raw_decode(plain[at.end() :].decode())[0]
    twice = plain[: at.start()] + f'"{spelled}": {json.dumps(again)}, '.encode() + plain[at.start() :]
    with pytest.raises(RowProblem) as caught:
        decode(twice)
    assert caught.value.code == "duplicate_key"


@pytest.mark.parametrize("raw", [line(), line(id=...), line(meta={"source": "s", "tags": []}), line(meta={})])
def test_the_line_that_is_kept_is_the_canonical_one(raw: bytes) -> None:
    checked = checked_line(raw)
    assert checked.encoded == encode(checked.row) == checked_line(checked.encoded).encoded


def verdict(read: Callable[[Any], object], value: object) -> str:
    try:
        read(value)
    except RowProblem as problem:
        return problem.code
    return "row"


@settings(max_examples=150)
@given(st.binary(max_size=60) | st.text(max_size=60).map(said) | st.text().map(str.encode))
def test_any_bytes_are_a_row_or_a_problem(raw: bytes) -> None:
    found = verdict(decode, raw)
    assert found in REASONS or decode(encode(decode(raw))) == decode(raw)


@settings(max_examples=100)
@given(st.text(st.sampled_from("<|_turnsaofde>[]/INST\x00\x0b\x7f\\ \n"), min_size=1, max_size=30))
def test_the_quick_look_at_the_bytes_misses_nothing_that_the_full_search_finds(content: str) -> None:
    value = {"id": "a", "messages": [{"role": "user", "content": content}, REPLY]}
    plain = json.dumps(value, ensure_ascii=False).encode()
    assert verdict(decode, plain) == verdict(checked_value, value)


def test_load_object_takes_any_object_and_nothing_else() -> None:
    assert load_object(b'{"instruction": 5}') == {"instruction": 5}
    assert load_object(b'{"a": {"b": "\\u0022"}, "c": 1.0}') == {"a": {"b": '"'}, "c": 1.0}
    for raw, code in (
        (b"[1]", "wrong_type"),
        (b"{", "invalid_json"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a": 1, "b": [{"c": 1, "\\u0063": 2}]}', "duplicate_key"),
    ):
        with pytest.raises(RowProblem) as caught:
            load_object(raw)
        assert caught.value.code == code


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" * 5000, b"-" + b"1" * 5000])
def test_a_number_that_is_too_large_is_named_by_its_path(number: bytes) -> None:
    for raw, at in (
        (b'{"a": {"b c": [0, "1e999", %s, %s]}}', "$.a['b c'][2]"),
        (b'{"a": 7, "b": %s, "c": %s}', "$.b"),
        (b'{"%s": 1, "b": %s}', "$.b"),
    ):
        with pytest.raises(RowProblem) as caught:
            load_object(raw % (number, number) if raw.count(b"%s") == 2 else raw % number)
        told = f"{at}: a number is out of range. Write numbers that a float can hold"
        assert (caught.value.code, str(caught.value)) == ("invalid_json", told)
