import pytest

from solotune.metrics.json_fields_f1 import json_fields_f1


def test_key_order_and_spacing_do_not_matter():
    assert json_fields_f1('{"b":[1,2],"a":{"c":"x"}}', '{ "a": {"c": "x"}, "b": [1, 2] }') == 1.0


def test_f1_weighs_missing_wrong_and_extra_fields():
    reference = '{"name": "Ada", "year": 1815, "tags": ["x", "y"]}'
    missing = '{"name": "Ada", "year": 1815}'
    wrong = '{"name": "Bob", "year": 1815, "tags": ["x", "y"]}'
    extra = '{"name": "Ada", "year": 1815, "tags": ["x", "y"], "z": 0}'
    assert json_fields_f1(missing, reference) == pytest.approx(2 * 2 / (2 + 4))
    assert json_fields_f1(wrong, reference) == pytest.approx(2 * 3 / (4 + 4))
    assert json_fields_f1(extra, reference) == pytest.approx(2 * 4 / (5 + 4))


def test_a_field_counts_at_its_path_only():
    assert json_fields_f1('{"a": {"x": 1}}', '{"b": {"x": 1}}') == 0.0
    assert json_fields_f1("[1]", '{"0": 1}') == 0.0


def test_the_order_of_a_list_counts():
    assert json_fields_f1("[1, 2, 3]", "[1, 3, 2]") == pytest.approx(1 / 3)


def test_numbers_agree_by_value():
    assert json_fields_f1('{"a": 40.0, "b": 4e1, "c": -0}', '{"a": 40, "b": 40, "c": 0}') == 1.0


def test_long_numbers_are_not_rounded_before_they_are_compared():
    assert json_fields_f1("[10000000000000000000001]", "[10000000000000000000001.0]") == 1.0
    assert json_fields_f1("[10000000000000000000001]", "[10000000000000000000002]") == 0.0


@pytest.mark.parametrize("other", ["true", '"1"', "[1]", "null", '"true"', "{}"])
def test_values_of_another_type_differ(other: str):
    assert json_fields_f1(f"[{other}]", "[1]") == 0.0


def test_false_and_null_and_zero_differ():
    assert json_fields_f1("[false, null, 0]", "[0, false, null]") == 0.0


def test_an_empty_container_is_a_leaf():
    assert json_fields_f1("{}", "{}") == 1.0
    assert json_fields_f1("[]", "{}") == 0.0
    assert json_fields_f1('{"a": [], "b": 1}', '{"a": {}, "b": 1}') == pytest.approx(1 / 2)
    assert json_fields_f1('{"a": {}}', '{"a": {"b": 1}}') == 0.0


@pytest.mark.parametrize("prediction", ["", "no JSON", "1", '{"a": 1, "a": 1}', '```json\n{"a": 1}\n```'])
def test_a_prediction_that_is_not_json_scores_zero(prediction: str):
    assert json_fields_f1(prediction, '{"a": 1}') == 0.0


@pytest.mark.parametrize("reference", ["", "no JSON", "42", "[NaN]"])
def test_a_reference_that_is_not_json_has_no_score(reference: str):
    assert json_fields_f1('{"a": 1}', reference) is None


def test_deep_documents_are_compared_to_the_last_level():
    deep = '{"a":' * 500 + "1" + "}" * 500
    assert json_fields_f1(deep, deep) == 1.0
    assert json_fields_f1(deep.replace("1", "2"), deep) == 0.0
