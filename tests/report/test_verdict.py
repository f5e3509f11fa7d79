"""The verdict in a word and in sentences."""

from __future__ import annotations

import pytest
from tests.report.demo import compared

from solotune.artifacts.measured import Comparison, EvalReport, MetricSummary, ModelScore
from solotune.report.caveats import too_few
from solotune.report.verdict import HEADLINES, overall, signed, word


def report(**comparison: Comparison) -> EvalReport:
    score = ModelScore(1.5, 4.48, {name: MetricSummary(0.5, (0.4, 0.6), 9) for name in comparison if name != "loss"})
    return EvalReport(1, "run", "test", 120, 900, score, score, comparison, {}, {}, 1.0)


BETTER, WORSE = Comparison(0.5, (0.4, 0.6), "better"), Comparison(-0.5, (-0.6, -0.4), "worse")
UNKNOWN = Comparison(0.01, (-0.1, 0.12), "cannot tell")


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        ({"a": BETTER, "b": UNKNOWN}, "better"),
        ({"a": WORSE, "b": UNKNOWN}, "worse"),
        ({"a": BETTER, "b": WORSE}, "mixed"),
        ({"a": UNKNOWN}, "cannot tell"),
        ({}, "cannot tell"),
    ],
)
def test_one_word_for_all_measures(comparison: dict[str, Comparison], expected: str) -> None:
    assert word(comparison) == expected
    assert expected in HEADLINES


def test_a_lower_loss_is_told_as_one_with_its_interval() -> None:
    found = overall(report(loss=Comparison(-3.5639, (-3.7, -3.41), "better")))
    assert found.loss == (
        "On 120 held-out rows of test the adapter's loss is 3.5639 nats a token lower (95 % interval 3.4100 to 3.7000)."
    )


def test_a_higher_loss_and_one_that_cant_be_told() -> None:
    assert (
        "0.2000 nats a token higher (95 % interval 0.1000 to 0.3000)"
        in overall(report(loss=Comparison(0.2, (0.1, 0.3), "worse"))).loss
    )
    assert overall(report(loss=Comparison(-0.0031, (-0.01, 0.004), "cannot tell"))).loss == (
        "On 120 held-out rows of test the adapter's loss differs by −0.0031 nats a token, and the 95 % interval, "
        "−0.0100 to +0.0040, holds 0."
    )


def test_metrics_are_told_by_verdict_without_empty_ones() -> None:
    found = overall(report(loss=BETTER, bleu=BETTER, f1=UNKNOWN))
    assert found.metrics == [
        ("better", ["bleu (+0.500; +0.400 to +0.600)"]),
        ("cannot tell", ["f1 (+0.010; −0.100 to +0.120)"]),
    ]


def test_a_report_without_a_comparison_still_says_the_loss() -> None:
    assert overall(report()).loss == "On 120 held-out rows of test the adapter's loss is 1.5000 nats a token."


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.85, 3, "+0.850"), (-0.012, 3, "−0.012"), (-0.0001, 3, "0.000"), (0.0, 4, "0.0000"), (1234.5, 1, "+1234.5")],
)
def test_a_sign_where_there_is_one(value: float, digits: int, text: str) -> None:
    assert signed(value, digits) == text


def test_the_demos_own_comparison_is_one() -> None:
    assert compared([0.1, 0.2, 0.15], lower_is_better=True).verdict == "worse"


def test_where_too_few_rows_differ_that_is_the_reason() -> None:
    few = Comparison(-4.6544, (-5.5, 0.0), "cannot tell", 3, 3, 0)
    assert overall(report(loss=few)).loss == (
        "On 120 held-out rows of test the adapter's loss differs by −4.6544 nats a token, on 3 rows: "
        "a verdict takes 6 that differ."
    )
    assert too_few(report(loss=few, a=Comparison(0.0, (-0.1, 0.1), "cannot tell", 3, 0, 0))) == (
        "Fewer than 6 rows differ, which tells nothing, in loss (3), a (0)."
    )
    assert overall(report(a=few)).metrics == [("cannot tell", ["a (−4.654; −5.500 to 0.000, too few rows differ)"])]
    assert not too_few(report(loss=Comparison(-0.1, (-0.2, -0.05), "better", 20, 12, 8)))
