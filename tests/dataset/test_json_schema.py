"""The published schema is that of the types, and an independent validator judges rows by it as prepare does."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from solotune.dataset.contract import decode
from solotune.dataset.json_schema import NOT_EXPRESSED, schema, text
from solotune.dataset.reasons import REASONS, RowProblem

COMMITTED = Path(__file__).parents[2] / "schemas/row.schema.json"
VALIDATOR = jsonschema_rs.Draft202012Validator(json.loads(COMMITTED.read_text()))

USER = {"role": "user", "content": "q"}
REPLY = {"role": "assistant", "content": "a"}


def test_the_committed_schema_is_the_one_that_the_types_give() -> None:
    assert COMMITTED.read_text() == text()
    command = [sys.executable, "-m", "solotune.dataset.json_schema"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == text()


def test_the_schema_is_a_schema() -> None:
    assert jsonschema_rs.meta.is_valid(schema())


def test_what_the_schema_leaves_open_is_part_of_the_contract_and_said_in_it() -> None:
    assert NOT_EXPRESSED.keys() <= REASONS.keys()
    assert all(code in schema()["$comment"] for code in NOT_EXPRESSED)


def agree(value: Any) -> None:
    """Both say yes, or both say no, or prepare says no for a reason that the schema can't know."""
    valid = VALIDATOR.is_valid(value)
    try:
        decode(json.dumps(value).encode())
    except RowProblem as problem:
        assert not valid or problem.code in NOT_EXPRESSED, problem  # noqa: PT017  either may be right
    else:
        assert valid, list(VALIDATOR.iter_errors(value))


def row(*messages: Any, **keys: Any) -> dict[str, Any]:
    return {"messages": list(messages or (USER, REPLY)), **keys}


@pytest.mark.parametrize(
    "value",
    [
        row(),
        row({"role": "system", "content": "s"}, USER, REPLY, USER, REPLY),
        row(id="a", meta={}),
        row(meta={"source": "", "tags": [], "split": "val", "group": "g"}),
        row(id="x" * 200),
        row(id="\U0001f600" * 200),
        row(USER, {"role": "assistant", "content": "\ufeff"}),
        row(USER, {"role": "assistant", "content": "x < y |> [inst] <|a b|>\t\r\n\x85\u2028"}),
    ],
)
def test_good_rows_are_valid(value: Any) -> None:
    decode(json.dumps(value).encode())
    assert VALIDATOR.is_valid(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], "", 7, {}),
        row(id=""),
        row(id="x" * 201),
        row(id=7),
        row(id=None),
        row(id="a\nb"),
        row(id="a\x9f"),
        {"messages": []},
        {"messages": {}},
        {"messages": None},
        row(USER),
        row(REPLY, REPLY),
        row(USER, {"role": "system", "content": "s"}, REPLY),
        row(USER, {"role": "tool", "content": "s"}),
        row(USER, {"role": "assistant"}),
        row(USER, {"content": "a"}),
        row(USER, {**REPLY, "weight": 1}),
        *(row(USER, {**REPLY, "content": content}) for content in (None, 5, [], "", " ", "\n\t\u2003\x85\x1c")),
        *(row(USER, {**REPLY, "content": f"a{chr(c)}b"}) for c in (0, 8, 11, 12, 31, 127)),
        *(
            row(USER, {**REPLY, "content": f"a {token} b"})
            for token in ("<|im_end|>", "<|é_9./:-|>", "<end_of_turn>", "[INST]", "[/INST]")
        ),
        row(note=1),
        row(meta=None),
        row(meta={"lang": "en"}),
        row(meta={"split": "dev"}),
        row(meta={"split": None}),
        row(meta={"source": "\x00"}),
        row(meta={"tags": "t"}),
        row(meta={"tags": [1]}),
        row(meta={"tags": ["\x07"]}),
        row(meta={"group": "\x07"}),
    ],
)
def test_bad_rows_are_not(value: Any) -> None:
    with pytest.raises(RowProblem):
        decode(json.dumps(value).encode())
    assert not VALIDATOR.is_valid(value)


def test_rules_that_the_schema_leaves_open_are_prepares() -> None:
    for value, code in ((row(USER, USER), "bad_role_order"), (row(USER, REPLY, USER), "last_not_assistant")):
        assert VALIDATOR.is_valid(value)
        with pytest.raises(RowProblem) as caught:
            decode(json.dumps(value).encode())
        assert caught.value.code == code in NOT_EXPRESSED


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["q", " ", "\x00", "<|x|>", "[INST]", "\x85", "\ufeff", "<start_of_turn>", "x" * 200, "x" * 201, "<|\u0301|>"]
)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values |= st.lists(texts, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "source"]), texts)
messages = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": texts})
metas = st.fixed_dictionaries(
    {},
    optional={
        "source": texts,
        "tags": st.lists(texts, max_size=2),
        "split": st.sampled_from(["train", "val", "test"]),
        "group": texts,
    },
)
good = st.builds(
    lambda turns, system: row(*system, *(t for _ in range(turns) for t in (USER, REPLY))),
    st.integers(1, 3),
    st.sampled_from([[], [{"role": "system", "content": "s"}]]),
)
rows = good | st.fixed_dictionaries({"messages": st.lists(messages, max_size=4)}, optional={"id": texts, "meta": metas})


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a value with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((value, key), *places(item))]


@settings(max_examples=400)
@given(rows, st.lists(st.tuples(st.integers(0, 60), st.sampled_from("rdak"), values), max_size=2))
@example(row(), [])
def test_both_say_the_same_of_rows_and_of_rows_with_a_change(value: Any, changes: list) -> None:
    value = deepcopy(value)
    for at, change, new in changes:
        found = places(value)
        if not found:
            break
        container, key = found[at % len(found)]
        if change == "d":
            del container[key]
        elif change == "k" and isinstance(container, dict):
            container[str(new)] = container.pop(key)
        elif change == "a" and isinstance(container, list):
            container.insert(key, new)
        else:
            container[key] = new
    agree(value)
