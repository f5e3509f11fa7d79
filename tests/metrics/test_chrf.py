from collections import Counter

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import EvaluationConfig
from solotune.metrics import AnswerMetric, asked

TEXTS = st.text(st.sampled_from("abcde ABC.-é猫"), max_size=25)


def chrf(prediction: str, reference: str, **options: object) -> float | None:
    (metric,) = asked(EvaluationConfig(metrics=({"chrf": options},)))
    assert isinstance(metric, AnswerMetric)
    return metric.score(prediction, reference, "row")


@settings(max_examples=100)
@given(prediction=TEXTS, reference=TEXTS.filter(str.strip), word_order=st.sampled_from([0, 2]))
def test_scores_are_those_of_sacrebleu(prediction: str, reference: str, word_order: int):
    theirs = sacrebleu.sentence_chrf(prediction, [reference], word_order=word_order).score
    assert chrf(prediction, reference, word_order=word_order) == pytest.approx(theirs / 100, abs=1e-12)


@settings(max_examples=100)
@given(prediction=TEXTS, reference=TEXTS.filter(str.strip))
def test_scores_are_those_of_the_formula(prediction: str, reference: str):
    """Popović 2015: F with β = 2 of precision and recall, each averaged over the orders that both texts have."""
    precisions, recalls = [], []
    for order in range(1, 7):
        given_, wanted = (
            Counter(text[i : i + order] for i in range(len(text) - order + 1))
            for text in ("".join(prediction.split()), "".join(reference.split()))
        )
        if given_ and wanted:
            shared = (given_ & wanted).total()
            precisions.append(shared / given_.total())
            recalls.append(shared / wanted.total())
    expected = 0.0
    if any(precisions):
        precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
        expected = 5 * precision * recall / (4 * precision + recall)
    assert chrf(prediction, reference) == pytest.approx(expected, abs=1e-9)


def test_a_blank_reference_has_no_score():
    assert chrf("anything", " \n") is None


def test_whitespace_does_not_count_but_case_does_unless_told_otherwise():
    assert chrf("New  York", "NewYork") == 1.0
    assert chrf("YORK", "york") == 0.0
    assert chrf("YORK", "york", lowercase=True) == 1.0


def test_the_words_are_the_signature_of_sacrebleu():
    (metric,) = asked(EvaluationConfig(metrics=({"chrf": {"word_order": 2}},)))
    assert metric.words == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:{sacrebleu.__version__}"
