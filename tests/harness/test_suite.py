from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from solotune.errors import ConfigError, MachineError
from solotune.harness.suite import compared, prepare


def results(values: list[Any], told: float, *, higher: bool = True, stderr: Any = "N/A") -> dict[str, Any]:
    """What `simple_evaluate` gives for one task."""
    return {
        "results": {"task": {"alias": "task", "sample_len": len(values), "acc,none": told, "acc_stderr,none": stderr}},
        "higher_is_better": {"task": {"acc": higher}},
        "samples": {"task": [{"doc_id": i, "filter": "none", "acc": value} for i, value in enumerate(values)]},
    }


def test_rows_are_paired() -> None:
    before, after = [0.0] * 10 + [1.0] * 10, [1.0] * 20
    (task,) = compared(results(before, 0.5), results(after, 1.0))
    assert (task.base, task.adapter, task.difference, task.n) == (0.5, 1.0, 0.5, 20)
    assert task.stderr == pytest.approx(0.5130 / 20**0.5, abs=1e-4)
    assert task.verdict == "better"
    assert task.ci95 is not None
    assert 0 < task.ci95[0] < 0.5 < task.ci95[1]


def test_lower_may_be_better() -> None:
    before, after = [0.0] * 10 + [1.0] * 10, [1.0] * 20
    (task,) = compared(results(before, 0.5, higher=False), results(after, 1.0, higher=False))
    assert (task.verdict, task.higher_is_better) == ("worse", False)


def test_a_metric_that_is_no_mean_of_its_rows_has_the_standard_errors_that_were_told() -> None:
    texts = [["reference", "answer"]] * 4
    (task,) = compared(results(texts, 10.0, stderr=3.0), results(texts, 40.0, stderr=4.0))
    assert (task.stderr, task.verdict, task.n) == (5.0, "better", 4)
    (other,) = compared(results([0.0, 1.0], 0.2, stderr="N/A"), results([1.0, 1.0], 0.3, stderr="N/A"))
    assert (other.stderr, other.ci95, other.verdict) == (None, None, "cannot tell")


def test_a_figure_that_is_no_number_is_left_out() -> None:
    assert list(compared(results([0.0], 0.0), results([0.0], float("nan")))) == []


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    without = "solotune.harness.suite_tasks.find_spec"
    monkeypatch.setattr(without, lambda name: None if name == "lm_eval" else found(name))
    with pytest.raises(MachineError, match=r"pip install 'solotune\[suite\]'"):
        prepare(None, ["hellaswag"])


def test_tasks_must_be_named() -> None:
    with pytest.raises(ConfigError, match="no task is named"):
        prepare(None, [])
