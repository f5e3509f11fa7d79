import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import EvaluationConfig
from solotune.errors import ConfigError
from solotune.metrics import AnswerMetric, asked

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def metric(schema: object, **options: object) -> AnswerMetric:
    (found,) = asked(EvaluationConfig(metrics=({"json_schema_valid": {"schema": schema, **options}},)))
    assert isinstance(found, AnswerMetric)
    return found


def valid(prediction: str, schema: object, **options: object) -> float | None:
    return metric(schema, **options).score(prediction, "", "row")


@pytest.mark.parametrize(
    "text", ['{"name": "Ada"}', ' {"age": 40.0, "name": "Ada"}\n', '{"name": "\\u00e9", "age": 1e2}']
)
def test_what_the_schema_allows_is_valid(text: str):
    assert valid(text, PERSON) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        '{"name": ""}',
        '{"age": 40}',
        '{"name": "Ada", "age": -1}',
        '{"name": "Ada", "age": 40.5}',
        '{"name": "Ada", "age": "40"}',
        '{"name": "Ada", "born": 1815}',
        '["Ada"]',
        '"Ada"',
        "null",
    ],
)
def test_what_the_schema_forbids_is_not(text: str):
    assert valid(text, PERSON) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Ada",
        '{"name": "Ada"',
        '```json\n{"name": "Ada"}\n```',
        'Here: {"name": "Ada"}',
        '{"name": "Ada", "name": "Ada"}',
        '{"name": "Ada", "age": NaN}',
        '{"name": "\\ud800"}',
        '{"\\udfff": ["Ada"]}',
    ],
)
def test_what_a_strict_parser_refuses_is_not_valid_whatever_the_schema(text: str):
    assert valid(text, PERSON) == 0.0
    assert valid(text, {}) == 0.0


def test_a_bare_number_or_text_is_a_document_where_the_schema_says_so():
    assert valid("40", {"type": "integer"}) == 1.0
    assert valid('"yes"', {"enum": ["yes", "no"]}) == 1.0
    assert valid("yes", {"enum": ["yes", "no"]}) == 0.0


def test_long_numbers_are_not_rounded():
    assert valid("10000000000000000000001", {"const": 10000000000000000000001}) == 1.0
    assert valid("10000000000000000000002", {"const": 10000000000000000000001}) == 0.0


def test_deep_nesting_fails_and_does_not_end_the_process():
    anything = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]}
    assert valid("[" * 400 + "1" + "]" * 400, anything) == 1.0
    assert valid("[" * 600 + "1" + "]" * 600, anything) == 0.0
    assert valid("[" * 50_000 + "1" + "]" * 50_000, anything) == 0.0


def test_formats_are_checked_unless_told_otherwise():
    day = {"type": "string", "format": "date"}
    assert valid('"2026-02-30"', day) == 0.0
    assert valid('"2026-02-28"', day) == 1.0
    assert valid('"2026-02-30"', day, formats=False) == 1.0


def test_the_schema_says_its_draft():
    tuple_of_two = {"items": [{"type": "integer"}, {"type": "string"}]}
    assert valid('["a", 1]', {"$schema": "http://json-schema.org/draft-07/schema#", **tuple_of_two}) == 0.0
    with pytest.raises(ConfigError, match="not a JSON Schema"):
        metric(tuple_of_two)  # prefixItems in 2020-12


def test_a_pattern_that_would_not_end_is_given_up():
    assert valid(json.dumps("x" * 5000), {"pattern": "^(x+x+)+y$"}) == 0.0


LEAVES = st.sampled_from([None, True, False, 0, 1, 1.0, 2.5, -3, "", "a", "ab", "1"])
INSTANCES: st.SearchStrategy[Any] = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(LEAVES, min_size=1, max_size=3),
            "const": INSTANCES,
            "minimum": st.integers(-3, 3),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "maxLength": st.integers(0, 2),
            "pattern": st.sampled_from(["^a", "b$", "^[0-9]+$"]),
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "maxProperties": st.integers(0, 2),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "additionalProperties": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
        },
    ),
    max_leaves=6,
)


@settings(max_examples=250)
@given(schema=SCHEMAS.filter(lambda schema: isinstance(schema, dict)), instance=INSTANCES)
def test_verdicts_are_those_of_pythons_jsonschema(schema: dict[str, Any], instance: Any):
    theirs = jsonschema.Draft202012Validator(schema).is_valid(instance)
    assert valid(json.dumps(instance), schema) == float(theirs)


# The schema itself


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_schema_may_lie_in_a_file_whose_hash_is_told(folder: Path):
    text = json.dumps(PERSON)
    (folder / "person.json").write_text(text)
    assert valid('{"name": "Ada"}', "person.json") == 1.0
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert metric("person.json").words == f"schema person.json, sha256 {digest}"
    assert metric("person.json", formats=False).words.endswith(", formats unchecked")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "schema.json can't be read: No such file"),
        (b"{", "schema.json is not JSON: "),
        (b"\xff\xfe{", "schema.json is not JSON: "),
        (b"[" * 50_000, "schema.json is not JSON: "),
        (b'{"type": "objekt"}', "schema.json: not a JSON Schema: ['type']: "),
        (b'{"$ref": "https://example.com/s.json"}', "schema.json: not a JSON Schema: "),
        (b'{"$ref": "file:///etc/passwd"}', "schema.json: not a JSON Schema: "),
        (b"7", "schema.json: not a JSON Schema: "),
    ],
)
def test_a_schema_that_cant_be_used_is_refused_before_anything_runs(folder: Path, content: bytes | None, said: str):
    if content is not None:
        (folder / "schema.json").write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        metric("schema.json")
    (problem,) = raised.value.problems
    assert problem.startswith(f"evaluation.metrics[0].json_schema_valid.schema: {said}")


def test_a_schema_in_the_config_is_checked_too():
    with pytest.raises(ConfigError, match=r"json_schema_valid.schema: not a JSON Schema: \['properties'\]\['a'\]"):
        metric({"properties": {"a": {"type": "objekt"}}})
