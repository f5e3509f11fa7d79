import pytest

import solotune.metrics.regex as module
from solotune.config.schema import EvaluationConfig
from solotune.errors import ConfigError, SolotuneError
from solotune.metrics import AnswerMetric, asked


def metric(pattern: str, **options: object) -> AnswerMetric:
    (found,) = asked(EvaluationConfig(metrics=({"regex": {"pattern": pattern, **options}},)))
    assert isinstance(found, AnswerMetric)
    return found


def regex(prediction: str, pattern: str, **options: object) -> float | None:
    return metric(pattern, **options).score(prediction, "", "row")


def test_a_search_finds_the_pattern_anywhere():
    assert regex("it is 40 percent", r"\d+") == 1.0
    assert regex("it is forty percent", r"\d+") == 0.0


def test_anchors_tie_a_search_to_the_ends():
    assert regex("40", r"^\d+$") == 1.0
    assert regex("40\n", r"^\d+$") == 1.0
    assert regex("it is 40", r"^\d+$") == 0.0


def test_a_full_match_wants_the_whole_answer():
    assert regex("40", r"\d+", match="full") == 1.0
    assert regex("40\n", r"\d+", match="full") == 0.0
    assert regex("it is 40", r"\d+", match="full") == 0.0


def test_flags_stand_in_the_pattern():
    assert regex("YES", "yes") == 0.0
    assert regex("YES", "(?i)yes") == 1.0
    assert regex("{\n}", "{.*}", match="full") == 0.0
    assert regex("{\n}", "(?s){.*}", match="full") == 1.0


def test_a_search_that_would_not_end_names_pattern_and_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SECONDS", 0.1)
    with pytest.raises(SolotuneError, match=r"regex: row 'row-7': the pattern '\(x\+x\+\)\+y' takes longer") as raised:
        metric("(x+x+)+y").score("x" * 5000, "", "row-7")
    assert "repetition within a repetition" in raised.value.fix


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "[", r"\1", "(?P<n>a)(?P=m)"])
def test_what_is_no_pattern_is_refused_before_anything_runs(pattern: str):
    with pytest.raises(ConfigError, match=r"evaluation.metrics\[0\].regex.pattern: not a pattern: "):
        metric(pattern)


def test_the_words_are_the_pattern():
    assert metric("a+", match="full").words == "full a+"
