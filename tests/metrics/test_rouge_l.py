import pytest

from solotune.metrics.rouge_l import rouge_l


@pytest.mark.parametrize(
    ("prediction", "reference", "rouge_score"),
    [
        ("the cat sat on the mat", "the cat is on the mat", 0.8333333333333334),
        ("The quick fox jumps over the lazy dog.", "the lazy dog jumps over the quick fox", 0.5),
        ("police killed the gunman", "police kill the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("Hello, World!", "hello world", 1.0),
        ("state-of-the-art", "state of the art", 1.0),
        ("snake_case name", "snake case_name", 1.0),
        ("It costs $3.50 today", "it costs 3 dollars 50", 0.8),
        ("don't stop", "do not stop", 0.3333333333333333),
        ("a b c d e f g", "g f e d c b a", 0.14285714285714285),
        ("a a a b", "a b b b", 0.5),
        ("one\ttwo\nthree", "one two three four five", 0.75),
        ("", "anything", 0.0),
        ("...", "anything", 0.0),
    ],
)
def test_scores_on_ascii_are_those_of_rouge_score(prediction: str, reference: str, rouge_score: float):
    assert rouge_l(prediction, reference) == pytest.approx(rouge_score, abs=1e-12)


def test_other_scripts_are_scored():
    assert rouge_l("Париж — столица Франции", "СТОЛИЦА Франции: Париж") == pytest.approx(2 / 3)
    assert rouge_l("où est l'été", "où est l'hiver") == pytest.approx(3 / 4)


def test_words_that_differ_in_a_vowel_sign_differ():
    assert rouge_l("की", "का") == 0.0
    assert rouge_l("हिन्दी भाषा", "हिन्दी") == pytest.approx(2 / 3)


def test_an_emoji_is_not_a_word():
    assert rouge_l("ok ❤\ufe0f", "ok") == 1.0


@pytest.mark.parametrize("reference", ["", " \n", "...", "❤\ufe0f", "_"])
def test_a_reference_without_a_word_has_no_score(reference: str):
    assert rouge_l("anything", reference) is None
