import pytest

from solotune.metrics.numeric_answer import numeric_answer


def test_the_last_number_of_each_text_is_compared():
    assert numeric_answer("2 bags of 3 are 6 apples.", "6") == 1.0
    assert numeric_answer("6 apples are 2 bags of 3.", "6") == 0.0


def test_the_marked_line_wins_over_later_numbers():
    reference = "She sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72"
    assert numeric_answer("48+24 = 72\n#### 72\n\nQuestion: what is 5 + 5?\n#### 10", reference) == 1.0
    assert numeric_answer("#### 71\nor is it 72", reference) == 0.0


def test_a_prediction_without_the_marked_line_is_read_by_its_last_number():
    assert numeric_answer("The answer is 72.", "5 + 67\n#### 72") == 1.0


def test_a_markdown_heading_is_not_the_marked_line():
    assert numeric_answer("#### 1. Add them\n5 and 6 are 11", "11") == 1.0


@pytest.mark.parametrize("line", ["#### $1,000", "####1000", "  #### 1,000.00 %", "#### 1000."])
def test_the_marked_line_may_carry_signs_around_its_number(line: str):
    assert numeric_answer(f"{line}\nChecked in 2 ways.", "1000") == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234,567.50", "1234567.5"),
        ("$1,000", "1000"),
        ("50%", "50"),
        ("40.0", "40"),
        ("007", "7"),
        ("It is 42.", "42"),
        ("costs .5", "0.5"),
        ("wait...5", "5"),
        ("1.5e3", "1500"),
        ("2E-2", "0.02"),
        ("x = -3", "-3"),
        ("(-3)", "-3"),
        ("\u22123", "-3"),
        ("-$3", "-3"),
        ("-0", "0"),
        ("10-3", "3"),
        ("step-3", "3"),
        ("10 - 3", "3"),
        ("1,2,3", "3"),
        ("1,2345", "2345"),
        ("٤٢", "42"),
    ],
)
def test_a_number_is_read_by_its_value(text: str, value: str):
    assert numeric_answer(text, value) == 1.0
    assert numeric_answer(value, text) == 1.0


@pytest.mark.parametrize(("prediction", "reference"), [("1.5e3", "2.5e3"), ("-3", "3"), ("0.5", "50%"), ("1,000", "1")])
def test_numbers_of_other_value_differ(prediction: str, reference: str):
    assert numeric_answer(prediction, reference) == 0.0


def test_digits_beyond_a_floats_precision_count():
    assert numeric_answer("0.10000000000000000001", "0.1") == 0.0


def test_a_prediction_without_a_number_scores_zero():
    assert numeric_answer("seventy-two", "72") == 0.0


def test_a_reference_without_a_number_has_no_score():
    assert numeric_answer("72", "seventy-two") is None


def test_a_number_longer_than_pythons_integer_limit_is_read():
    assert numeric_answer("9" * 5000, "9" * 5000 + ".0") == 1.0
