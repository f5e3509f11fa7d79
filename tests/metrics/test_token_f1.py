import pytest

from solotune.metrics.token_f1 import token_f1


@pytest.mark.parametrize(
    ("prediction", "reference", "official"),
    [
        ("the cat sat on the mat", "A cat is on a mat", 0.75),
        ("Hello, World!", "hello world", 1.0),
        ("well-known", "well known", 0.0),
        ("the 3 of them", "3", 0.5),
        ("Denver Broncos", "The Denver Broncos!", 1.0),
        ("yes yes yes", "yes", 0.5),
        ("no", "yes", 0.0),
        ("", "yes", 0.0),
        ("in the year 1999, he left", "he left in 1999", 0.888888888888889),
        ("$5.00", "500", 1.0),
    ],
)
def test_scores_are_those_of_the_official_squad_v11_script(prediction: str, reference: str, official: float):
    assert token_f1(prediction, reference) == pytest.approx(official, abs=1e-12)


def test_two_texts_without_a_word_agree():
    assert token_f1("", "") == 1.0
    assert token_f1("The!", "...") == 1.0


def test_one_text_without_a_word_scores_zero():
    assert token_f1("...", "yes") == 0.0
    assert token_f1("yes", "...") == 0.0


def test_punctuation_of_any_script_is_dropped():
    assert token_f1("«Москва» — столица…", "москва столица") == 1.0
    assert token_f1("¿Dónde está “Ana”?", "dónde está ana") == 1.0
    assert token_f1("東京。", "東京") == 1.0


def test_words_of_other_scripts_are_compared():
    assert token_f1("столица Франции Париж", "столица России Москва") == pytest.approx(1 / 3)


def test_articles_go_only_as_whole_words():
    assert token_f1("other banana", "or banan") == 0.0
