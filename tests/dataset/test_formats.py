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
        with pytest.raises(RowProblem, match=r"\$\.meta: expected an object, got a string"):
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


@pytest.mark.parametrize(
    ("format_name", "field"),
    [("prompt_completion", "prompt"), ("alpaca", "instruction"), ("sharegpt", "conversations")],
)
def test_where_a_column_has_another_name_the_names_there_are_and_the_key_to_set_are_told(
    format_name: str, field: str
) -> None:
    problem = problem_in(format_name, {"question": "q", "\x1b[2J": "a"})
    assert str(problem) == (
        f"$: the key '{field}' is missing. Add it, or name the right one with dataset.columns: {{{field}: COLUMN}}; "
        r"the keys here are 'question', '\x1b[2J'"
    )
    assert "{prompt: COLUMN}" in str(problem_in("prompt_completion", {"question": "q"}, {"prompt": "p"}))
    assert str(problem_in(format_name, {})) == f"$: the key '{field}' is missing. Add it"


def test_of_many_and_long_column_names_some_are_told() -> None:
    problem = problem_in("alpaca", {f"{n}{'x' * 500}": "" for n in range(1000)})
    assert str(problem).endswith("xxx…' and 992 more")
    assert len(str(problem)) < 700


def test_an_unknown_field_in_columns_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"format alpaca has no field answer\. Its fields are instruction, input"):
        parser("alpaca", {"answer": "x"})


@pytest.mark.parametrize(
    ("format_name", "record", "code", "message"),
    [
        ("messages", {"id": "x"}, "missing_field", "the key 'messages' is missing"),
        ("messages", {"messages": TURNS, "note": 1}, "unknown_field", "'note' isn't part of a row"),
        (
            "messages",
            {"messages": TURNS, "id": 7},
            "wrong_type",
            "$.id: expected a string, got a number. Write a string",
        ),
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
            "$.conversations[1].value: expected a string, got null. Write a string",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": None, "value": "q"}]},
            "wrong_type",
            "$.conversations[0].from: invalid value null. Write one of system, human",
        ),
        ("sharegpt", {"conversations": SHARED[::-1]}, "bad_role_order", "assistant where user is due"),
        ("sharegpt", {"conversations": SHARED, "system": 5}, "wrong_type", "$.system: expected a string, got a number"),
        (
            "sharegpt",
            {"conversations": SHARED, "conversation": SHARED},
            "unknown_field",
            "both 'conversations' and 'conversation'",
        ),
        *(
            ("openai_chat", {"messages": [TURNS[0], {**TURNS[1], **extra}]}, code, message)
            for extra, code, message in (
                ({"weight": 0}, "wrong_type", "$.messages[1].weight: weight 0 on a turn of the assistant. Every"),
                ({"weight": 0.5}, "wrong_type", "weight 0.5 on a turn of the assistant"),
                ({"weight": True}, "wrong_type", "weight true on a turn of the assistant"),
                ({"weight": "1"}, "wrong_type", "weight '1' on a turn of the assistant"),
                ({"weight": [0]}, "wrong_type", "weight an array on a turn of the assistant"),
                ({"name": "n"}, "unknown_field", "$.messages[1]: the key 'name' isn't part of a turn. Write the name"),
                ({"tool_calls": [{}]}, "unknown_field", "the key 'tool_calls' isn't part of a turn. Rows hold text"),
                ({"function_call": {}}, "unknown_field", "the key 'function_call' isn't part of a turn. Rows hold"),
                ({"mood": 1}, "unknown_field", "the key 'mood' isn't part of a turn. Remove it"),
                ({"content": None}, "missing_field", "$.messages[1]: the key 'content' is missing or null"),
                ({"content": 5}, "wrong_type", "$.messages[1].content: expected a string, got a num"),
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
        ("alpaca", {"instruction": "q", "output": None}, "wrong_type", "$.output: expected a string, got null"),
        ("alpaca", {"instruction": "q", "output": ""}, "empty_content", "the assistant's content is blank"),
        (
            "alpaca",
            {"instruction": "q", "input": ["i"], "output": "a"},
            "wrong_type",
            "$.input: expected a string, got an array",
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
            "$.split: invalid value 'dev'. Write one of train, val, test",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "id": True},
            "wrong_type",
            "$.id: expected a string, got true or false",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "tags": 5},
            "wrong_type",
            "$.tags: expected an array, got a number. Write an array",
        ),
        ("prompt_completion", {"prompt": "q"}, "missing_field", "the key 'completion' is missing"),
        (
            "prompt_completion",
            {"prompt": 5, "completion": "a"},
            "wrong_type",
            "$.prompt: expected a string or an array of messages, got a number. Write a string or an array of",
        ),
        (
            "prompt_completion",
            {"prompt": "q", "completion": ["a"]},
            "wrong_type",
            "$.completion[0]: expected an object, got a string. Write an object",
        ),
    ],
)
def test_a_record_that_does_not_fit_is_a_named_problem(format_name: str, record: dict, code: str, message: str) -> None:
    with pytest.raises(RowProblem) as caught:
        convert(format_name, record)
    assert caught.value.code == code
    assert message in str(caught.value)


def problem_in(format_name: str, record: dict[str, Any], columns: dict[str, str] | None = None) -> RowProblem:
    with pytest.raises(RowProblem) as caught:
        convert(format_name, record, columns)
    return caught.value


LONG = [{"role": "system", "content": "s"}, *TURNS, *TURNS]
LONG_SHARED = [{"from": {"user": "human"}.get(t["role"], t["role"]), "value": t["content"]} for t in LONG]
PARTS = [{"role": t["role"], "content": [{"type": "text", "text": x} for x in ("", "part", "b")]} for t in LONG]
NESTED = {"id": "i", "meta": {"source": "s", "tags": ["t", "u"], "split": "val", "group": "g"}}
FLAT = {"id": "i", "source": "s", "tags": ["t", "u"], "split": "val", "group": "g"}
FULL = [
    ("messages", {"messages": LONG}),
    ("openai_chat", {"messages": LONG}),
    ("openai_chat", {"messages": PARTS}),
    ("sharegpt", {"conversations": LONG_SHARED}),
    ("sharegpt", {"conversation": LONG_SHARED[1:], "system": "s"}),
    ("sharegpt", {"conversations": LONG}),
    ("alpaca", {"instruction": "q", "output": "a"}),
    ("alpaca", {"instruction": "q", "input": "in", "output": "a", "system": "s"}),
    ("prompt_completion", {"prompt": "q", "completion": "a"}),
    ("prompt_completion", {"prompt": LONG[:4], "completion": "a"}),
    ("prompt_completion", {"prompt": "q", "completion": [TURNS[1], *TURNS]}),
    ("prompt_completion", {"prompt": LONG[:2], "completion": LONG[2:]}),
]


def texts_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, str):
        return [path] if path[-1] != "type" else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [found for key, item in items for found in texts_of(item, (*path, key))]


def replaced(value: Any, path: tuple[str | int, ...], text: str) -> Any:
    if not path:
        return text
    made = value.copy()
    made[path[0]] = replaced(value[path[0]], path[1:], text)
    return made


def spelled(path: tuple[str | int, ...]) -> str:
    steps = (f"[{key!r}]" if isinstance(key, int) or not key.isidentifier() else f".{key}" for key in path)
    return "$" + "".join(steps)


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize(("format_name", "chat_part", "about"), [(*f, about) for f in FULL for about in (NESTED, FLAT)])
def test_whatever_text_of_a_record_is_bad_its_own_path_is_told(
    format_name: str, chat_part: dict, about: dict, renamed: bool
) -> None:
    if format_name == "messages":
        about = NESTED
    columns = {field: f"their {field}" for field in FORMATS[format_name].FIELDS} if renamed else {}
    record = {columns.get(key, key): value for key, value in {**chat_part, **about}.items()}
    convert(format_name, record, columns)  # nothing else is wrong with it
    for path in texts_of(record):
        problem = problem_in(format_name, replaced(record, path, "zz\x01z"), columns)
        assert problem.at == spelled(path)
        assert str(problem).startswith(f"{problem.at}: {problem.what}. ")
        if problem.code == "control_character":
            assert problem.what == "U+0001 at character 2"


@pytest.mark.parametrize(
    ("format_name", "record", "columns", "told"),
    [
        ("alpaca", {"instruction": "q", "output": " "}, {}, "$.output: the assistant's content is blank"),
        ("alpaca", {"instruction": " ", "output": "a"}, {}, "$.instruction: the user's content is blank"),
        ("alpaca", {"instruction": "q", "output": "a", "system": " "}, {}, "$.system: the system's content is blank"),
        ("alpaca", {"q": "q", "a": "", "output": "x"}, {"instruction": "q", "output": "a"}, "$.a: the assistant's"),
        ("alpaca", {"instruction": "q", "output": "a", "side": "dev"}, {"split": "side"}, "$.side: invalid value"),
        ("alpaca", {"instruction": "q", "output": "a", "x y": "d"}, {"split": "x y"}, "$['x y']: invalid value"),
        ("alpaca", {"instruction": "q", "output": "a", "n": {"split": 1}}, {"meta": "n"}, "$.n.split: expected a st"),
        ("alpaca", {"instruction": "q", "output": "a", "n": {"x": 1}}, {"meta": "n"}, "$.n: the key 'x' isn't part"),
        ("alpaca", {"instruction": "q", "output": "a", "n": "x"}, {"meta": "n"}, "$.n: expected an object, got a st"),
        ("alpaca", {"instruction": "q", "output": "a", "n": "x" * 201}, {"id": "n"}, "$.n: the id has 201 charac"),
        ("alpaca", {"instruction": "q", "output": "a", "n": []}, {"id": "n"}, "$.n: expected a string, got an array"),
        ("alpaca", {"instruction": "q", "output": "a", "n": [1]}, {"tags": "n"}, "$.n[0]: expected a string, got a nu"),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "tags": "t,, u\x01 ,v"},
            {},
            r"$.tags: U+0001 at character 1 of the tag 'u\x01'. Remove it",
        ),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "meta": {"split": "dev", "source": "s"}, "split": ""},
            {},
            "$.meta.split: invalid value 'dev'",
        ),
        ("sharegpt", {"conversations": []}, {}, "$.conversations: no messages"),
        ("sharegpt", {"conversation": []}, {"conversation": "c"}, "the key 'conversations' is missing"),
        ("sharegpt", {"c": []}, {"conversation": "c"}, "$.c: no messages"),
        ("sharegpt", {"c": {}}, {"conversation": "c"}, "$.c: expected an array, got an object. Write an array"),
        ("sharegpt", {"conversations": SHARED[::-1], "system": "s"}, {}, "$.conversations[0].from: assistant where"),
        ("sharegpt", {"conversations": SHARED[:1], "system": "s"}, {}, "$.conversations[0]: the last turn is the us"),
        ("sharegpt", {"conversations": [], "system": "s"}, {}, "$.system: the last turn is the system's"),
        ("openai_chat", {"m": "x"}, {"messages": "m"}, "$.m: expected an array, got a string. Write an array"),
        ("openai_chat", {"m": [TURNS[1]]}, {"messages": "m"}, "$.m[0].role: assistant where user is due"),
        ("openai_chat", {"m": [PARTS[1], {**TURNS[1], "content": []}]}, {"messages": "m"}, "$.m[1].content: the ass"),
        ("openai_chat", {"messages": TURNS, "a b": [1]}, {"tools": "a b"}, "$['a b']: a row offers no tools"),
        ("messages", {"m": None}, {"messages": "m"}, "$.m: expected an array, got null. Write an array"),
        ("messages", {"m": ["x"]}, {"messages": "m"}, "$.m[0]: expected an object, got a string. Write an object"),
        ("messages", {"m": [{"role": "user"}]}, {"messages": "m"}, "$.m[0]: the key 'content' is missing"),
        ("messages", {"messages": TURNS, "n": None}, {"meta": "n"}, "$.n: expected an object, got null"),
        ("messages", {"messages": TURNS, "n": {"source": 1}, "source": "s"}, {"meta": "n"}, "$.n.source: expected a s"),
        ("messages", {"messages": TURNS, "n": 7}, {"id": "n"}, "$.n: expected a string, got a number. Write a string"),
        ("prompt_completion", {"prompt": [], "completion": []}, {}, "$: no messages"),
        ("prompt_completion", {"prompt": [], "completion": "a"}, {}, "$.completion: assistant where user is due"),
        ("prompt_completion", {"prompt": "q", "completion": []}, {}, "$.prompt: the last turn is the user's"),
        ("prompt_completion", {"prompt": "q", "completion": TURNS[:1]}, {}, "$.completion[0].role: user where assist"),
        ("prompt_completion", {"prompt": [{}], "completion": "a"}, {}, "$.prompt[0]: the key 'role' is missing"),
        ("prompt_completion", {"prompt": "", "completion": "a"}, {}, "$.prompt: the user's content is blank"),
        (
            "prompt_completion",
            {"p": LONG[:2], "c": [{"role": "assistant", "content": None}]},
            {"prompt": "p", "completion": "c"},
            "$.c[0].content: expected a string, got null",
        ),
    ],
)
def test_a_rule_that_is_broken_after_conversion_is_told_in_the_names_of_the_raw_record(
    format_name: str, record: dict, columns: dict[str, str], told: str
) -> None:
    assert told in str(problem_in(format_name, record, columns))


def test_only_of_a_bad_row_is_it_asked_where_its_messages_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    for format_name, record in BY_FORMAT.items():
        monkeypatch.setattr(FORMATS[format_name], "origin", refuse)
        assert chat(convert(format_name, record)) == ASKED
        if format_name != "messages":  # whose lines are the contract
            with pytest.raises(AssertionError):
                convert(format_name, {**record, "split": "dev"})


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
    assert {p.stem for p in folder.glob("*.py")} == {*FORMATS, "fields", "raw_names", "__init__"}


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
        {"meta": {"source": ""}},
        *({"meta": {key: text}} for key in ("source", "group") for text in ("<|im_end|>", "[", "a\x7f", "a\0", "é")),
        *({"meta": {"tags": ["a", text]}} for text in ("", "<", "\x1f", "\0")),
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
    metas: list[dict] = [{}, {"meta": {"source": "s", "tags": ["t", ""]}}, {"meta": {"group": "[g]", "split": "val"}}]
    rows = [ROW | {"id": f"r-{n}"} | metas[n % 3] for n in range(9)]
    lines = [json.dumps(row, separators=s).encode() for row in rows for s in (None, (",", ":"))]
    assert checked_lines(lines) == [checked_line(line) for line in lines]
    assert checked_lines([*lines, b"{}"]) is None
