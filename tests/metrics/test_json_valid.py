from decimal import Decimal

import pytest

from solotune.metrics.json_valid import json_valid, parse_json


@pytest.mark.parametrize("text", ["{}", "[]", ' {"a": [1, -2.5e3, true, null, "\\u00e9"]}\n', '[{"a": 1}, {"a": 2}]'])
def test_an_object_or_array_is_valid(text: str):
    assert json_valid(text, "") == 1.0


@pytest.mark.parametrize("text", ["42", '"text"', "true", "null"])
def test_a_bare_value_is_not_enough(text: str):
    assert json_valid(text, "") == 0.0


@pytest.mark.parametrize("text", ["[NaN]", "[Infinity]", '{"a": -Infinity}'])
def test_constants_that_only_python_reads_are_refused(text: str):
    assert json_valid(text, "") == 0.0


def test_a_key_given_twice_is_refused_at_any_depth():
    assert json_valid('{"a": 1, "a": 1}', "") == 0.0
    assert json_valid('[{"b": {"a": 1, "a": 2}}]', "") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{'a': 1}",
        '{"a": 1,}',
        "[01]",
        "[1] [2]",
        '```json\n{"a": 1}\n```',
        'Sure: {"a": 1}',
        '["a\nb"]',
        "\ufeff[]",
    ],
)
def test_anything_but_one_strict_document_is_refused(text: str):
    assert json_valid(text, "") == 0.0


def test_the_reference_does_not_matter():
    assert json_valid("[1]", "no JSON") == 1.0
    assert json_valid("no JSON", "[1]") == 0.0


def test_an_integer_longer_than_pythons_limit_is_valid():
    assert json_valid("[" + "9" * 5000 + "]", "") == 1.0


def test_nesting_beyond_the_recursion_limit_counts_as_invalid():
    assert json_valid("[" * 100_000 + "]" * 100_000, "") == 0.0


def test_a_number_beyond_decimals_range_counts_as_invalid():
    assert json_valid("[1e99999999999999999999]", "") == 0.0


def test_numbers_keep_every_digit():
    assert parse_json("[0.1, 12345678901234567890.5]") == [Decimal("0.1"), Decimal("12345678901234567890.5")]
