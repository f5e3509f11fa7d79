import math

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import EvaluationConfig
from solotune.metrics import AnswerMetric, asked

WORDS = st.lists(
    st.sampled_from(["the", "a", "cat", "sat", "on", "mat,", "it's", "3.5", "Hello", "hello", "—", "кот"]), max_size=12
)
TEXTS = WORDS.map(" ".join)


def bleu(prediction: str, reference: str, **options: object) -> float | None:
    (metric,) = asked(EvaluationConfig(metrics=({"bleu": options},)))
    assert isinstance(metric, AnswerMetric)
    return metric.score(prediction, reference, "row")


@settings(max_examples=100)
@given(prediction=TEXTS, reference=TEXTS.filter(bool))
def test_scores_are_those_of_sacrebleu(prediction: str, reference: str):
    """Through its own short cut, whose defaults are those that a sentence's score is to have."""
    theirs = sacrebleu.sentence_bleu(prediction, [reference]).score
    assert bleu(prediction, reference) == pytest.approx(theirs / 100, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "reference", "by_hand"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        # 5/6 words, 3/5 pairs, 1/4 triples, and no run of four: half of one in three.
        ("the cat sat on the mat", "the cat is on the mat", (5 / 6 * 3 / 5 * 1 / 4 * (1 / 2) / 3) ** (1 / 4)),
        # one of two words, no pair: half of one in one.
        ("a b", "a", (1 / 2 * (1 / 2) / 1) ** (1 / 2)),
        # every word right, but half as long: the brevity penalty.
        ("a b c d", "a b c d e f g h", math.exp(1 - 8 / 4)),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_scores_are_those_of_the_formula(prediction: str, reference: str, by_hand: float):
    assert bleu(prediction, reference) == pytest.approx(by_hand, abs=1e-9)


@pytest.mark.parametrize("reference", ["", " \n", "<skipped>"])  # the tokeniser drops the last one
def test_a_reference_without_a_word_has_no_score(reference: str):
    assert bleu("anything", reference) is None


def test_case_counts_unless_told_otherwise():
    assert bleu("HELLO WORLD", "hello world") == 0.0
    assert bleu("HELLO WORLD", "hello world", lowercase=True) == 1.0


def test_text_without_spaces_needs_another_tokeniser():
    assert bleu("我喜欢猫", "我喜欢狗") == 0.0
    assert bleu("我喜欢猫", "我喜欢狗", tokenize="zh") == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * (1 / 2)) ** (1 / 4))


def test_the_words_are_the_signature_of_sacrebleu():
    (metric,) = asked(EvaluationConfig(metrics=({"bleu": {"tokenize": "char", "lowercase": True}},)))
    assert metric.words == f"nrefs:1|case:lc|eff:yes|tok:char|smooth:exp|version:{sacrebleu.__version__}"
