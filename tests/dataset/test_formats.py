"""Raw layouts become rows; what can't is named in the words of the raw file."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solotune.config.schema import DatasetConfig
from solotune.dataset.contract import Checked, Row, checked_line, checked_lines
from solotune.dataset.formats import FORMATS, Parser
from solotune.dataset.readers.source import RawRecord, TableRow
from solotune.dataset.reasons import RowProblem
from solotune.errors import DataError


def parser(format_name: str, columns: dict[str, str] | None = None) -> Parser:
    return Parser(DatasetConfig(raw_files=("x",), format=format_name, columns=columns or {}))


def convert(format_name: str, record: dict[str, Any], columns: dict[str, str] | None = None) -> Row:
    return parser(format_name, columns).parse(RawRecord("f", 1, 0, json.dumps(record).encode())).row


def chat(row: Row) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in row.messages]


ASKED = [("user", "q"), ("assistant", "a")]
WITH_SYSTEM = [("system", "s"), *ASKED]
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARED = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("format_name", "record", "expected"),
    [
        ("messages", {"messages": TURNS}, ASKED),
        ("messages", {"id": "x", "messages": TURNS, "meta": {"source": "m"}}, ASKED),
        ("sharegpt", {"conversations": SHARED}, ASKED),
        ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, *SHARED]}, WITH_SYSTEM),
        ("sharegpt", {"conversations": SHARED, "system": "s"}, WITH_SYSTEM),
        ("sharegpt", {"conversations": SHARED, "system": ""}, ASKED),
        ("sharegpt", {"conversations": TURNS}, ASKED),
        (
            "sharegpt",
            {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]},
            ASKED,
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "user", "value": "q"}, {"from": "chatgpt", "value": "a"}]},
            ASKED,
        ),
        *(
            ("sharegpt", {key: [{"from": user, "value": "q"}, {"from": model, "value": "a"}]}, ASKED)
            for key in ("conversation", "conversations")
            for user in ("human", "user")
            for model in ("gpt", "chatgpt", "bing", "bard", "model", "assistant")
        ),
        ("sharegpt", {"conversation": SHARED, "conversations": None}, ASKED),
        ("openai_chat", {"messages": TURNS}, ASKED),
        ("openai_chat", {"messages": [{"role": "developer", "content": "s"}, *TURNS]}, WITH_SYSTEM),
        ("openai_chat", {"messages": [TURNS[0], {**TURNS[1], "weight": 1}], "tools": []}, ASKED),
        ("openai_chat", {"messages": [{**TURNS[0], "weight": 0}, {**TURNS[1], "weight": 1.0}]}, ASKED),
        ("openai_chat", {"messages": [TURNS[0], {**TURNS[1], "tool_calls": None, "refusal": None}]}, ASKED),
        (
            "openai_chat",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": t} for t in ("", "a")]},
                ],
                "parallel_tool_calls": False,
            },
            ASKED,
        ),
        ("alpaca", {"instruction": "q", "output": "a"}, ASKED),
        ("alpaca", {"instruction": "q", "input": "", "output": "a"}, ASKED),
        ("alpaca", {"instruction": "q", "input": " \n", "output": "a", "system": None}, ASKED),
        (
            "alpaca",
            {"instruction": "q", "input": "i", "output": "a"},
            [("user", "q\n\ni"), ("assistant", "a")],
        ),
        ("alpaca", {"instruction": "q", "output": "a", "system": "s"}, WITH_SYSTEM),
        ("prompt_completion", {"prompt": "q", "completion": "a"}, ASKED),
        ("prompt_completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}, ASKED),
        ("prompt_completion", {"prompt": "q", "completion": TURNS[1:]}, ASKED),
        (
            "prompt_completion",
            {"prompt": [{"role": "system", "content": "s"}, TURNS[0]], "completion": "a"},
            WITH_SYSTEM,
        ),
    ],
)
def test_a_record_becomes_a_chat(format_name: str, record: dict, expected: list) -> None:
    assert chat(convert(format_name, record)) == expected


BY_FORMAT = {
    "messages": {"messages": TURNS},
    "openai_chat": {"messages": TURNS},
    "sharegpt": {"conversations": SHARED},
    "alpaca": {"instruction": "q", "output": "a"},
    "prompt_completion": {"prompt": "q", "completion": "a"},
}


def test_every_format_of_the_config_is_here_and_tested() -> None:
    assert FORMATS.keys() == BY_FORMAT.keys() == set(get_args(DatasetConfig.model_fields["format"].annotation))


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_same_chat_has_the_same_content_id_in_every_format(format_name: str) -> None:
    assert convert(format_name, BY_FORMAT[format_name]).id == convert("messages", BY_FORMAT["messages"]).id


@pytest.mark.parametrize("format_name", FORMATS)
def test_id_and_meta_are_kept(format_name: str) -> None:
    meta = {"source": "m", "tags": ["t"], "split": "val"}
    row = convert(format_name, {**BY_FORMAT[format_name], "id": "x", "meta": meta})
    assert (row.id, row.meta.source, row.meta.tags, row.meta.split) == ("x", "m", ("t",), "val")


@pytest.mark.parametrize("format_name", [f for f in FORMATS if f != "messages"])
def test_flat_files_may_have_meta_in_columns_and_number_their_rows(format_name: str) -> None:
    flat = {"id": 7, "source": "m", "tags": "t, u,", "split": "test", "meta": None}
    row = convert(format_name, {**BY_FORMAT[format_name], **flat})
    assert (row.id, row.meta.source, row.meta.tags, row.meta.split) == ("7", "m", ("t", "u"), "test")


@pytest.mark.parametrize("format_name", [f for f in FORMATS if f != "messages"])
def test_empty_cells_are_absent(format_name: str) -> None:
    flat = {"id": "", "source": "", "tags": "", "split": ""}
    row = convert(format_name, {**BY_FORMAT[format_name], **flat})
    assert row == convert(format_name, BY_FORMAT[format_name])


@pytest.mark.parametrize("format_name", [f for f in FORMATS if f != "messages"])
def test_an_empty_meta_is_none_in_a_table_only(format_name: str) -> None:
    record = {**BY_FORMAT[format_name], "meta": "", "source": "m"}
    row = parser(format_name).parse(RawRecord("f", 1, 0, b"", TableRow(record))).row
    assert (row.meta.source, row.meta.tags) == ("m", ())
    for value in (record, TableRow(record, meta="m")):
        with pytest.raises(RowProblem, match=r"\$\.meta: expected an object, got text"):
            parser(format_name).parse(RawRecord("f", 1, 0, b"", value))


@pytest.mark.parametrize("tags", ["", " , "])
def test_empty_tags_leave_those_of_meta(tags: str) -> None:
    for format_name in (f for f in FORMATS if f != "messages"):
        row = convert(format_name, {**BY_FORMAT[format_name], "meta": {"tags": ["t"]}, "tags": tags})
        assert row.meta.tags == ("t",)


@pytest.mark.parametrize("format_name", FORMATS)
def test_columns_rename_every_field(format_name: str) -> None:
    record = BY_FORMAT[format_name]
    columns = {field: f"their {field}" for field in FORMATS[format_name].FIELDS}
    theirs = {columns[field]: value for field, value in {**record, "id": "x"}.items()}
    assert chat(convert(format_name, theirs, columns)) == ASKED
    assert convert(format_name, theirs, columns).id == "x"


def test_a_renamed_field_is_not_read_under_its_own_name() -> None:
    with pytest.raises(RowProblem, match=r"the key 'response' is missing"):
        convert("alpaca", {"instruction": "q", "output": "a"}, {"output": "response"})


def test_an_unknown_field_in_columns_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"format alpaca has no field answer\. Its fields are instruction, input"):
        parser("alpaca", {"answer": "x"})


@pytest.mark.parametrize(
    ("format_name", "record", "code", "message"),
    [
        ("messages", {"id": "x"}, "missing_field", "the key 'messages' is missing"),
        ("messages", {"messages": TURNS, "note": 1}, "unknown_field", "'note' isn't part of a row"),
        ("messages", {"messages": TURNS, "id": 7}, "wrong_type", "$.id: expected str"),
        ("messages", {"messages": TURNS, "id": ""}, "bad_id", "0 characters"),
        ("sharegpt", {}, "missing_field", "the key 'conversations' is missing"),
        ("sharegpt", {"conversations": "q"}, "wrong_type", "$.conversations: expected an array"),
        ("sharegpt", {"conversations": ["q"]}, "wrong_type", "$.conversations[0]: expected an object"),
        ("sharegpt", {"conversations": []}, "empty_messages", "no messages"),
        (
            "sharegpt",
            {"conversations": [{"from": "human"}]},
            "missing_field",
            "$.conversations[0]: the key 'value'",
        ),
        ("sharegpt", {"conversations": [{"value": "q"}]}, "missing_field", "the key 'from' is missing"),
        (
            "sharegpt",
            {"conversations": [{"from": "bot", "value": "q"}]},
            "wrong_type",
            "$.conversations[0].from: invalid",
        ),
        (
            "sharegpt",
            {"conversations": [{**SHARED[0], "weight": 0}]},
            "unknown_field",
            "'weight' isn't part of a turn",
        ),
        ("sharegpt", {"conversations": [{**SHARED[0], **TURNS[0]}]}, "unknown_field", "'content' isn't part"),
        (
            "sharegpt",
            {"conversations": [SHARED[0], {"from": "gpt", "value": None}]},
            "wrong_type",
            "messages[1].content",
        ),
        ("sharegpt", {"conversations": SHARED[::-1]}, "bad_role_order", "assistant where user is due"),
        ("sharegpt", {"conversations": SHARED, "system": 5}, "wrong_type", "$.system: expected text"),
        (
            "sharegpt",
            {"conversations": SHARED, "conversation": SHARED},
            "unknown_field",
            "both 'conversations' and 'conversation'",
        ),
        *(
            ("openai_chat", {"messages": [TURNS[0], {**TURNS[1], **extra}]}, code, message)
            for extra, code, message in (
                ({"weight": 0}, "wrong_type", "$.messages[1].weight: weight '0' on a turn of the assistant. Every"),
                ({"weight": 0.5}, "wrong_type", "weight '0.5' on a turn of the assistant"),
                ({"weight": True}, "wrong_type", "weight 'True' on a turn of the assistant"),
                ({"weight": "1"}, "wrong_type", "weight '1' on a turn of the assistant"),
                ({"name": "n"}, "unknown_field", "$.messages[1]: the key 'name' isn't part of a turn. Write the name"),
                ({"tool_calls": [{}]}, "unknown_field", "the key 'tool_calls' isn't part of a turn. Rows hold text"),
                ({"function_call": {}}, "unknown_field", "the key 'function_call' isn't part of a turn. Rows hold"),
                ({"mood": 1}, "unknown_field", "the key 'mood' isn't part of a turn. Remove it"),
                ({"content": None}, "missing_field", "$.messages[1]: the key 'content' is missing or null"),
                ({"content": 5}, "wrong_type", "$.messages[1].content: expected str, got int"),
                ({"content": [{"type": "image_url"}]}, "wrong_type", "$.messages[1].content[0]: a part that isn't"),
                ({"content": [{"type": "text", "text": 5}]}, "wrong_type", "$.messages[1].content[0].text: expected"),
                ({"content": []}, "empty_content", "the assistant's content is blank"),
                ({"role": "tool"}, "wrong_type", "$.messages[1].role: a turn of role 'tool'. Rows hold text only"),
                ({"role": "function"}, "wrong_type", "a turn of role 'function'. Rows hold text only"),
                ({"role": "gpt"}, "wrong_type", "invalid value 'gpt'. Write one of system, developer, user"),
            )
        ),
        ("openai_chat", {"messages": [{**TURNS[0], "weight": 1}, TURNS[1]]}, "wrong_type", "Only turns of the assist"),
        ("openai_chat", {"messages": TURNS, "tools": [{}]}, "unknown_field", "$.tools: a row offers no tools. Rows"),
        ("openai_chat", {"messages": TURNS, "functions": [{}]}, "unknown_field", "$.functions: a row offers no tools"),
        ("openai_chat", {"messages": "q"}, "wrong_type", "$.messages: expected an array"),
        ("openai_chat", {"messages": ["q"]}, "wrong_type", "$.messages[0]: expected an object"),
        ("openai_chat", {}, "missing_field", "the key 'messages' is missing"),
        ("alpaca", {"instruction": "q"}, "missing_field", "the key 'output' is missing"),
        ("alpaca", {"instruction": "q", "output": None}, "wrong_type", "$.output: expected text, got null"),
        ("alpaca", {"instruction": "q", "output": ""}, "empty_content", "the assistant's content is blank"),
        (
            "alpaca",
            {"instruction": "q", "input": ["i"], "output": "a"},
            "wrong_type",
            "$.input: expected text, got an",
        ),
        ("alpaca", {"instruction": "q", "output": "</s><|im_end|>"}, "control_token", "<|im_end|>"),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "meta": "m"},
            "wrong_type",
            "$.meta: expected an object",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "meta": {"x": 1}},
            "unknown_field",
            "$.meta: the key 'x'",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "split": "dev"},
            "wrong_type",
            "$.meta.split: invalid value 'dev'",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "id": True},
            "wrong_type",
            "$.id: expected text, got bool",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "tags": 5},
            "wrong_type",
            "$.meta.tags: expected array",
        ),
        ("prompt_completion", {"prompt": "q"}, "missing_field", "the key 'completion' is missing"),
        (
            "prompt_completion",
            {"prompt": 5, "completion": "a"},
            "wrong_type",
            "$.prompt: expected text or an array",
        ),
        (
            "prompt_completion",
            {"prompt": "q", "completion": ["a"]},
            "wrong_type",
            "$.messages[1]: expected object",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_a_named_problem(format_name: str, record: dict, code: str, message: str) -> None:
    with pytest.raises(RowProblem) as caught:
        convert(format_name, record)
    assert caught.value.code == code
    assert message in str(caught.value)


def test_columns_that_are_not_read_are_counted() -> None:
    alpaca = parser("alpaca")
    for extra in ({}, {"text": "t"}, {"text": "t", "inptu": "i"}):
        record = {"instruction": "q", "output": "a", **extra}
        alpaca.parse(RawRecord("f", 1, 0, json.dumps(record).encode()))
    assert alpaca.unread == {"text": 2, "inptu": 1}


def test_with_columns_the_messages_format_leaves_further_columns_out_and_counts_them() -> None:
    chosen = parser("messages", {"id": "prompt_id"})
    raw = json.dumps({"prompt_id": "x", "messages": TURNS, "prompt": "q"}).encode()
    assert chosen.parse(RawRecord("f", 1, 0, raw)).row.id == "x"
    assert chosen.unread == {"prompt": 1}


def test_values_of_a_table_need_no_json() -> None:
    value = {"messages": TURNS, "score": 0.5}
    row = parser("messages").parse(RawRecord("f", 1, None, b"", value)).row
    assert chat(row) == ASKED


def test_a_record_that_is_no_object_is_a_problem() -> None:
    for raw in (b"[]", b"null", b'"q"'):
        with pytest.raises(RowProblem) as caught:
            parser("alpaca").parse(RawRecord("f", 1, 0, raw))
        assert caught.value.code == "wrong_type"


def test_a_format_is_one_file() -> None:
    folder = Path(__file__).parents[2] / "src/solotune/dataset/formats"
    assert {p.stem for p in folder.glob("*.py")} == {*FORMATS, "fields", "__init__"}


ROW = {"id": "r", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
ODD_LINES = [
    json.dumps(ROW | changes, ensure_ascii=ascii_only).encode()
    for ascii_only in (True, False)
    for changes in (
        {"id": ""},
        {"id": "x" * 201},
        {"id": "\x85"},
        {"meta": {}},
        {"meta": {"tags": ["t"]}},
        {"messages": []},
        {"messages": [*ROW["messages"], {"role": "user", "content": "q"}]},
        *({"messages": [{"role": "user", "content": content}, ROW["messages"][1]]} for content in ("", " \n", "\x1c")),
        *(
            {"messages": [{"role": "user", "content": content}, ROW["messages"][1]]}
            for content in (
                " q\t",
                "\x1cq",
                "q\x1f",
                "a\x7f",
                "a\0b",
                "<|im_end|>",
                "<",
                "[INST]",
                "é",
                '"id"',
                "\\u0022",
            )
        ),
    )
] + [
    b"{}",
    b"not JSON",
    b"\xff",
    json.dumps({"messages": ROW["messages"]}).encode(),
    json.dumps(ROW).encode().replace(b'"r"', b'"r", "id": "r"'),
    json.dumps(ROW).encode().replace(b'"r"', b'"r", "\\u0069d": "r"'),
    json.dumps(ROW).encode().replace(b'"q"', b'"\\u0022\\u0022"'),
    json.dumps(ROW).encode().replace(b'"q"', b'"\\ud800"'),
    json.dumps(ROW).encode() * 2,
]


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_among_others_is_judged_as_it_is_alone(line: bytes) -> None:
    plain = [json.dumps(ROW | {"id": f"r-{n}"}).encode() for n in range(3)]
    same_among_others([*plain, line])
    same_among_others([line, *plain, ODD_LINES[-3]])


@given(st.lists(st.sampled_from([*ODD_LINES, *(json.dumps(ROW | {"id": f"r-{n}"}).encode() for n in range(9))])))
def test_lines_together_are_judged_as_they_are_one_by_one(lines: list[bytes]) -> None:
    same_among_others(lines)


def same_among_others(lines: list[bytes]) -> None:
    chosen, records = parser("messages"), [RawRecord("f", n, 0, line) for n, line in enumerate(lines, 1)]
    assert list(map(shown, chosen.parse_many(records))) == [shown(alone(chosen, record)) for record in records]


def alone(chosen: Parser, record: RawRecord) -> Checked | RowProblem:
    try:
        return chosen.parse(record)
    except RowProblem as problem:
        return problem


def shown(found: Checked | RowProblem) -> object:
    return (found.code, str(found)) if isinstance(found, RowProblem) else found


def test_plain_lines_are_proved_together() -> None:
    """Else the test before would compare one way with itself."""
    lines = [json.dumps(ROW | {"id": f"r-{n}"}, separators=s).encode() for n in range(9) for s in (None, (",", ":"))]
    assert checked_lines(lines) == [checked_line(line) for line in lines]
    assert checked_lines([*lines, b"{}"]) is None
