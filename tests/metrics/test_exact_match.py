from solotune.metrics.exact_match import exact_match


def test_whitespace_at_the_ends_is_ignored():
    assert exact_match("\n Paris\t", "Paris ") == 1.0


def test_whitespace_inside_counts():
    assert exact_match("New  York", "New York") == 0.0


def test_case_and_punctuation_count():
    assert exact_match("paris", "Paris") == 0.0
    assert exact_match("Paris.", "Paris") == 0.0


def test_json_of_equal_value_but_other_text_is_no_match():
    assert exact_match('{"a":1}', '{"a": 1}') == 0.0


def test_an_empty_reference_is_matched_by_a_blank_prediction_only():
    assert exact_match(" ", "") == 1.0
    assert exact_match("Paris", "") == 0.0
