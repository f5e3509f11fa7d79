"""The table of metrics, and what holds for each of them."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import solotune.metrics
from solotune.config.schema import EvaluationConfig
from solotune.metrics import METRICS, AnswerMetric, Score, asked

JSON_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)
TEXTS = st.one_of(
    st.text(st.characters()),  # with lone surrogates
    st.text(st.sampled_from("0123456789٤.,-\u2212+eE#$% \n")),
    st.text(st.sampled_from('[]{}":,01ae. ')),
    JSON_DOCUMENTS.map(json.dumps),
)
DEEP = "[" * 20_000 + "]" * 20_000
UNCLOSED = '{"a":' * 20_000
LONG_INTEGER = "[" + "9" * 10_000 + "]"
VAST_EXPONENT = "[1e99999999999999999999]"

NEEDED: dict[str, dict[str, object]] = {
    "json_schema_valid": {"schema": {"required": ["tool"]}},
    "python": {"file": "metrics/mine.py"},
    "regex": {"pattern": "41"},
}
"""The least options of those that don't go without."""
IGNORE_THE_REFERENCE = {"json_schema_valid", "json_valid", "regex"}
NO_METRICS = {"__init__", "asked", "kinds", "table"}

every_metric = pytest.mark.parametrize("name", METRICS)
every_answer_metric = pytest.mark.parametrize("name", sorted(METRICS.keys() - {"choice_accuracy"}))
quick = settings(max_examples=75)


@pytest.fixture(scope="module", autouse=True)
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A checkout with a function of the user's."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "metrics").mkdir()
    (folder / "metrics" / "mine.py").write_text(
        "def score(prediction, reference):\n    return prediction == reference\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@cache
def function(name: str) -> Score:
    (metric,) = asked(EvaluationConfig(metrics=({name: NEEDED.get(name, {})},)))
    assert isinstance(metric, AnswerMetric)
    return metric.function


def test_every_file_of_the_folder_is_in_the_table_under_its_name():
    files = {path.stem for path in Path(solotune.metrics.__file__).parent.glob("*.py")}
    assert files > NO_METRICS
    assert sorted(files - NO_METRICS) == list(METRICS)
    assert all(metric.__module__ == f"solotune.metrics.{name}" for name, metric in METRICS.items())


@every_metric
def test_every_option_is_in_the_table_of_configs_readme(name: str):
    table = (Path(__file__).parents[2] / "configs/README.md").read_text("utf-8").partition("## Metrics")[2]
    row = next((line for line in table.splitlines() if line.startswith(f"| `{name}` | ")), "")
    metric = METRICS[name]
    fields = metric.model_fields if isinstance(metric, type) else {}
    options = {field.alias or key for key, field in fields.items()} - {"label"}
    assert options == set(re.findall(r"`(\w+)`(?: \(required\))?[:,]", row))


@every_metric
def test_every_metric_has_its_test_file(name: str):
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


@every_answer_metric
@quick
@given(prediction=TEXTS, reference=TEXTS)
@example(prediction=DEEP, reference="[1]")
@example(prediction="[1]", reference=DEEP)
@example(prediction=UNCLOSED, reference=UNCLOSED)
@example(prediction=LONG_INTEGER, reference="[1]")
@example(prediction="[1]", reference=LONG_INTEGER)
@example(prediction=VAST_EXPONENT, reference=VAST_EXPONENT)
@example(prediction="1e999999999999999999999", reference="-1e-999999999999999999999")
@example(prediction="\ud800", reference="\udfff")
def test_any_two_strings_give_a_score_from_0_to_1_or_none(name: str, prediction: str, reference: str):
    score = function(name)(prediction, reference)
    assert score is None or (type(score) is float and 0.0 <= score <= 1.0)


@every_answer_metric
@quick
@given(prediction=TEXTS, other=TEXTS, reference=TEXTS)
def test_only_the_reference_decides_whether_a_row_is_scored(name: str, prediction: str, other: str, reference: str):
    metric = function(name)
    assert (metric(prediction, reference) is None) == (metric(other, reference) is None)


@pytest.mark.parametrize("name", sorted(METRICS.keys() - IGNORE_THE_REFERENCE - {"choice_accuracy"}))
@quick
@given(text=TEXTS)
@example(text=LONG_INTEGER)
@example(text=DEEP)
def test_the_reference_itself_scores_1_where_the_metric_applies(name: str, text: str):
    assert function(name)(text, text) in (None, pytest.approx(1.0))


@every_answer_metric
def test_a_perfect_answer_scores_1_and_a_wrong_one_0(name: str):
    reference = '{"tool": "age", "is": 41}'
    assert function(name)(reference, reference) == 1.0
    assert function(name)("???", reference) == 0.0
