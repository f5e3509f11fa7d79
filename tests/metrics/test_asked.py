from pathlib import Path
from typing import Any

import pytest

from solotune import cli
from solotune.config.load import load
from solotune.config.schema import EvaluationConfig
from solotune.errors import ConfigError
from solotune.metrics import METRICS, AnswerMetric, ChoiceMetric, asked, problems, unused_tags

REGEX: dict[str, Any] = {"regex": {"pattern": "a"}}


def evaluation(*metrics: str | dict[str, Any], **by_tag: list[str | dict[str, Any]]) -> EvaluationConfig:
    return EvaluationConfig(metrics=metrics, metrics_by_tag={tag: tuple(found) for tag, found in by_tag.items()})


def texts(config: EvaluationConfig) -> list[str]:
    return [text for _, text in problems(config)]


def test_a_metric_is_asked_of_all_rows_or_of_those_with_a_tag():
    everywhere, tagged = asked(evaluation("exact_match", json=["json_valid"]))
    assert (everywhere.label, everywhere.tags) == ("exact_match", None)
    assert everywhere.applies_to([])
    assert (tagged.label, tagged.tags) == ("json_valid", ("json",))
    assert tagged.applies_to(["long", "json"])
    assert not tagged.applies_to(["long"])


def test_a_metric_of_several_tags_is_there_once():
    (metric,) = asked(evaluation(a=["exact_match"], b=["exact_match"]))
    assert metric.tags == ("a", "b")


@pytest.mark.parametrize(
    "config", [evaluation("exact_match", a=["exact_match"]), evaluation("exact_match", "exact_match")]
)
def test_a_metric_of_all_rows_stays_one_of_all_rows(config: EvaluationConfig):
    (metric,) = asked(config)
    assert metric.tags is None


def test_metrics_come_in_the_order_of_the_table_whatever_the_configs_is():
    labels = [metric.label for metric in asked(evaluation("token_f1", "contains", a=["bleu", "exact_match"]))]
    assert labels == ["bleu", "contains", "exact_match", "token_f1"]
    assert list(METRICS) == sorted(METRICS)


def test_nothing_asked_is_nothing_measured():
    assert asked(evaluation()) == []


def test_one_metric_with_two_sets_of_options_needs_a_label():
    digits = {"regex": {"pattern": "[0-9]", "label": "digits"}}
    assert [metric.label for metric in asked(evaluation(REGEX, digits))] == ["regex", "digits"]
    (problem,) = texts(evaluation(REGEX, {"regex": {"pattern": "b"}}))
    assert problem == "two metrics are called 'regex'; call one otherwise, as in {regex: {label: NAME}}"


def test_two_metrics_cant_have_one_label_whatever_they_are():
    assert len(texts(evaluation("exact_match", {"contains": {"label": "exact_match"}}))) == 1


@pytest.mark.parametrize("label", ["loss", "perplexity", "", "a b", "<script>", "x" * 61])
def test_a_label_is_a_word_that_is_still_free(label: str):
    assert len(texts(evaluation({"exact_match": {"label": label}}))) == 1


def test_metrics_without_options_take_a_label():
    (metric,) = asked(evaluation({"exact_match": {"label": "verbatim"}}))
    assert isinstance(metric, AnswerMetric)
    assert (metric.label, metric.words, metric.score("a", "a", "row")) == ("verbatim", "", 1.0)


def test_metrics_by_likelihood_are_told_from_those_of_answers():
    by_likelihood, of_answers = asked(evaluation("exact_match", "choice_accuracy"))
    assert isinstance(by_likelihood, ChoiceMetric)
    assert isinstance(of_answers, AnswerMetric)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("exakt_match", "there is no metric 'exakt_match'; did you mean exact_match? (there are: bleu, "),
        ("zzz", "there is no metric 'zzz' (there are: bleu, "),
        ({"regex": {"pattern": "a"}, "bleu": {}}, "a metric with options is a mapping with one key: "),
        ({}, "a metric with options is a mapping with one key: "),
        ({"regex": None}, "the options of regex are a mapping: {regex: {OPTION: VALUE}}"),
        ({"regex": "a+"}, "the options of regex are a mapping: "),
        ("regex", "regex needs the option 'pattern': The pattern"),
        (
            {"regex": {"pattern": "a", "mach": "full"}},
            "regex has no option 'mach'; did you mean match? (it has: pattern, ",
        ),
        ({"exact_match": {"ignore_case": True}}, "exact_match has no option 'ignore_case' (it has: label)"),
        ({"regex": {"pattern": 7}}, "7 is not text; a number is, in quotes"),
        ({"regex": {"pattern": "a", "match": "prefix"}}, "'prefix' is not a choice (allowed: 'search' or 'full')"),
        ({"bleu": {"lowercase": "yes"}}, "'yes' is neither true nor false"),
        ({"choice_accuracy": {"choices": ["yes"]}}, "['yes'] is too short"),
        ({"choice_accuracy": {"choices": ["yes", "no", "yes "]}}, "'yes ' stands there twice"),
        ({"choice_accuracy": {"choices": ["yes", " "]}}, "a choice is blank"),
        ({"choice_accuracy": {"normalise": "byte"}}, "'byte' is not a choice (allowed: 'sum', 'token' or 'character')"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_meant(entry: str | dict[str, Any], said: str):
    (problem,) = texts(evaluation(entry))
    assert problem.startswith(said)


def test_all_problems_show_at_once_each_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(
        "dataset: {raw_files: [x]}\nmodel: {name_or_path: x, source: folder}\ntraining: {learning_rat: 1.0}\n"
        "evaluation:\n  metrics:\n  - exact_match\n  - regex:\n      patern: a\n  - bleuu\n"
        "  metrics_by_tag:\n    even:\n    - json_schema_valid: {schema: none.json}\n"
    )
    assert cli.main(["prepare", "--config", "small.yaml"]) == 2
    err = capsys.readouterr().err
    for said in (
        "small.yaml:3: training.learning_rat: unknown key",
        "small.yaml:7: evaluation.metrics[1].regex: regex needs the option 'pattern'",
        "small.yaml:8: evaluation.metrics[1].regex.patern: regex has no option 'patern'",
        "small.yaml:9: evaluation.metrics[2]: there is no metric 'bleuu'",
        "small.yaml:12: evaluation.metrics_by_tag.even[0].json_schema_valid.schema: none.json can't be read",
    ):
        assert f"error: {said}" in err
    assert len(err.splitlines()) == 5


def test_fetch_reads_no_file_that_a_metric_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its container sees none of them, and has a network, where nobody's function should run."""
    monkeypatch.chdir(tmp_path)
    config = evaluation({"python": {"file": "metrics/mine.py"}}, {"json_schema_valid": {"schema": "none.json"}})
    assert problems(config, files=False) == []
    assert len(problems(config)) == 2
    with pytest.raises(ConfigError):
        asked(config)
    assert len(problems(evaluation({"python": {"fil": "metrics/mine.py"}}), files=False)) == 2


def test_a_config_with_options_resolves_to_one_that_asks_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from solotune.config.load import resolved_yaml

    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(
        "dataset: {raw_files: [x]}\nmodel: {name_or_path: x, source: folder}\n"
        "evaluation:\n  metrics: [exact_match, {regex: {pattern: '^\\d+$'}}]\n"
        "  metrics_by_tag: {a: [{choice_accuracy: {choices: ['yes', 'no']}}]}\n"
    )
    config = load(tmp_path / "x.yaml", check=problems)
    (tmp_path / "again.yaml").write_text(resolved_yaml(config))
    again = load(tmp_path / "again.yaml", check=problems)
    assert again.evaluation == config.evaluation
    assert [metric.words for metric in asked(again.evaluation)] == [
        "choices: 'yes', 'no'; normalise: sum",
        "",
        "search ^\\d+$",
    ]


def test_metrics_can_be_asked_for_on_the_command_line(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("dataset: {raw_files: [x]}\nmodel: {name_or_path: x, source: folder}\n")
    config = load(tmp_path / "x.yaml", ["evaluation.metrics=[bleu, {regex: {pattern: a}}]"], problems)
    assert [metric.label for metric in asked(config.evaluation)] == ["bleu", "regex"]
    with pytest.raises(
        ConfigError, match=r"--set evaluation.metrics=.*: evaluation.metrics\[0\]: there is no metric 'blue'"
    ):
        load(tmp_path / "x.yaml", ["evaluation.metrics=[blue]"], problems)


def test_tags_that_no_row_carries_are_found():
    metrics = asked(evaluation("exact_match", json=["json_valid"], jsn=["json_fields_f1"], long=["json_valid"]))
    assert unused_tags(metrics, ["json", "long", "other"]) == ["jsn"]
    assert unused_tags(metrics, []) == ["jsn", "json", "long"]
    assert unused_tags(asked(evaluation("exact_match")), []) == []
