import hashlib
from pathlib import Path

import numpy as np
import pytest

from solotune.config.schema import EvaluationConfig
from solotune.errors import ConfigError, SolotuneError
from solotune.metrics import AnswerMetric, asked


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout, which is where commands run."""
    (tmp_path / "checkout" / "metrics").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    return tmp_path / "checkout"


def metric(source: str | None = None, file: str = "metrics/mine.py", **options: object) -> AnswerMetric:
    if source is not None:
        Path(file).write_text(source)
    (found,) = asked(EvaluationConfig(metrics=({"python": {"file": file, **options}},)))
    assert isinstance(found, AnswerMetric)
    return found


def gives(value: str) -> AnswerMetric:
    return metric(f"import math\nimport numpy as np\ndef score(prediction, reference):\n    return {value}\n")


def problem_of(source: str | None = None, file: str = "metrics/mine.py", **options: object) -> str:
    with pytest.raises(ConfigError) as raised:
        metric(source, file, **options)
    (problem,) = raised.value.problems
    return problem.removeprefix("evaluation.metrics[0].python.")


def test_the_functions_score_is_the_score():
    ours = metric("def score(prediction: str, reference: str) -> float:\n    return len(prediction) / len(reference)\n")
    assert ours.score("ab", "abcd", "row") == 0.5


def test_the_function_may_have_another_name_and_several_may_be_in_one_file():
    source = "def one(p, r): return 1.0\ndef half(p, r, more=None): return 0.5\n"
    assert metric(source, function="one").score("", "", "row") == 1.0
    assert metric(source, function="half").score("", "", "row") == 0.5


@pytest.mark.parametrize(
    ("value", "score"),
    [("1", 1.0), ("0.25", 0.25), ("True", 1.0), ("None", None), ("np.float32(0.5)", 0.5), ("np.int64(1)", 1.0)],
)
def test_any_number_from_0_to_1_is_a_score(value: str, score: float | None):
    found = gives(value).score("", "", "row")
    assert found == score
    assert found is None or type(found) is float


@pytest.mark.parametrize(
    "value",
    ["math.nan", "math.inf", "-0.001", "1.001", "2", "10**400", "'1'", "[1]", "1j", "np.ones(2)", "np.float64('nan')"],
)
def test_anything_else_is_refused_with_its_row(value: str):
    with pytest.raises(SolotuneError, match=r"^python: row 'row-7': metrics/mine.py: score gives ") as raised:
        gives(value).score("", "", "row-7")
    assert raised.value.fix == "A score is a number from 0 to 1, or None where it doesn't apply"


def test_an_exception_names_file_line_and_row():
    ours = metric(
        "def score(prediction, reference):\n    return inner(prediction)\n\n"
        "def inner(text):\n    return {'a': 1}[text]\n"
    )
    assert ours.score("a", "", "row-1") == 1.0
    with pytest.raises(SolotuneError, match=r"python: row 'row-2': metrics/mine.py:5: KeyError: 'b'") as raised:
        ours.score("b", "", "row-2")
    assert raised.value.fix == "Correct metrics/mine.py"


def test_an_exception_below_the_file_names_the_files_own_line():
    ours = metric("import json\ndef score(prediction, reference):\n    return json.loads(prediction)\n")
    with pytest.raises(SolotuneError, match=r"metrics/mine.py:3: JSONDecodeError: "):
        ours.score("{", "", "row")


@pytest.mark.parametrize("way_out", ["exit()", "raise SystemExit", "import sys; sys.exit(0)"])
def test_a_function_cant_end_the_stage_in_silence(way_out: str):
    with pytest.raises(SolotuneError, match="SystemExit"):
        metric(f"def score(prediction, reference):\n    {way_out}\n").score("", "", "row")
    assert "SystemExit" in problem_of(f"{way_out}\n")


def test_control_characters_of_a_prediction_dont_reach_the_terminal():
    ours = metric("def score(prediction, reference):\n    raise ValueError(prediction)\n")
    with pytest.raises(SolotuneError) as raised:
        ours.score("\x1b]0;title\x07\nline", "", "row\x1b[2J")
    assert str(raised.value).isprintable()


def test_the_words_name_the_code_that_measured():
    source = "def score(prediction, reference): return 1\n"
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    assert metric(source).words == f"metrics/mine.py: score, sha256 {digest}"


def test_code_that_was_changed_runs_as_it_is_now_and_leaves_no_cache(repository: Path):
    assert metric("def score(prediction, reference): return 0\n").score("", "", "row") == 0.0
    assert metric("def score(prediction, reference): return 1\n").score("", "", "row") == 1.0
    assert [path.name for path in (repository / "metrics").iterdir()] == ["mine.py"]


def test_dataclasses_and_postponed_annotations_work():
    ours = metric(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass Pair:\n"
        "    one: str\n    other: str | None = None\n\n"
        "def score(prediction: str, reference: str) -> float:\n    return Pair(prediction) == Pair(reference)\n"
    )
    assert ours.score("a", "a", "row") == 1.0


@pytest.mark.parametrize(
    "file",
    [
        "mine.py",
        "metrics/../mine.py",
        "../metrics/mine.py",
        "metrics/../../outside.py",
        "/etc/passwd",
        "metrics",
        "metrics/none.py",
        "metrics/link.py",
        "metrics/a\0b.py",
    ],
)
def test_a_file_that_isnt_in_metrics_is_never_run(repository: Path, file: str):
    marker = repository.parent / "ran"
    for path in (repository / "mine.py", repository.parent / "outside.py"):
        path.write_text(f"open({str(marker)!r}, 'w')\ndef score(p, r): return 1\n")
    (repository / "metrics/link.py").symlink_to(repository.parent / "outside.py")
    assert problem_of(None, file).startswith("file: ")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = (\n", "file: metrics/mine.py:1: SyntaxError: '(' was never closed"),
        ("import math\nmath.no\n", "file: metrics/mine.py:2: AttributeError: module 'math' has no attribute 'no'"),
        ("import no_such_package\n", "file: metrics/mine.py:1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("a = 1\0\n", "file: metrics/mine.py: "),  # SyntaxError, or ValueError before Python 3.11.4
        ("", "function: there is no function 'score' in metrics/mine.py: def score(prediction, reference)"),
        ("score = 1\n", "function: there is no function 'score' in metrics/mine.py: "),
        ("def score(prediction): pass\n", "function: 'score' of metrics/mine.py doesn't take two texts"),
        ("def score(a, b, c): pass\n", "function: 'score' of metrics/mine.py doesn't take two texts"),
    ],
)
def test_a_file_that_cant_be_used_is_refused_before_anything_runs(source: str, said: str):
    assert problem_of(source).startswith(said)


def test_a_file_of_another_kind_is_refused():
    assert (
        problem_of("def score(p, r): return 1\n", "metrics/mine.txt")
        == "file: 'metrics/mine.txt' is no Python file (.py)"
    )


def test_numpy_gives_what_the_cases_say():
    assert isinstance(np.float64(0.5), float)
    assert not isinstance(np.float32(0.5), float)
