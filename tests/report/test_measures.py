"""Tables of what was measured, and where marks stand on their axes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.report.demo import make_run

from solotune.artifacts.measured import EvalReport, WorseRow
from solotune.report.measures import Axis, Worsened, axis_over, blocks, blocks_by_tag, worsened


@pytest.fixture
def report(runs: Path) -> EvalReport:
    found = make_run(runs, steps=1, rows=60).report()
    assert found
    return found


def test_the_loss_has_an_axis_of_its_own(report: EvalReport) -> None:
    loss, metrics = blocks(report)
    assert [line.name for line in loss.lines] == ["loss"]
    assert [line.name for line in metrics.lines] == ["exact_match", "json_fields_f1", "json_valid"]
    assert loss.axis.low < report.comparison["loss"].ci95[0] < 0
    assert metrics.lines[1].explained == "fields of the reference's JSON"
    assert metrics.lines[0].base == f"{report.base.metrics['exact_match'].value:.3f}"
    assert metrics.lines[0].verdict == "better"


def test_by_tag_the_largest_comes_first_and_what_isnt_shown_is_counted(report: EvalReport) -> None:
    many = {f"tag-{i}": score for i, score in enumerate([*report.adapter.by_tag.values()] * 4)}
    grown = msgspec.structs.replace(
        report,
        base=msgspec.structs.replace(report.base, by_tag=many),
        adapter=msgspec.structs.replace(report.adapter, by_tag=many),
    )
    found = blocks_by_tag(grown)
    assert [block.name for block in found] == ["loss", "exact_match", "json_fields_f1", "json_valid"]
    assert len(found[0].lines) + found[0].more == len(many)
    assert len(found[0].lines) == 40
    assert [line.n for line in found[0].lines] == sorted((line.n for line in found[0].lines), reverse=True)
    assert found[0].lines[0].verdict == "", "not compared by tag: no verdict, no crash"


def test_rows_that_got_worse_are_counted_beyond_those_that_are_listed(report: EvalReport) -> None:
    comparison = report.comparison | {"loss": msgspec.structs.replace(report.comparison["loss"], rows_worse=999)}
    listed = {"loss": [WorseRow("a", 0.5), WorseRow("b", 0.25)], "exact_match": []}
    found = worsened(msgspec.structs.replace(report, comparison=comparison, worse_rows=listed))
    assert found == [Worsened("loss", 999, [("a", "+0.5000"), ("b", "+0.2500")])]


@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), max_size=6))
@example([5e-324])
@example([1e-8])
def test_an_axis_holds_zero_and_every_value_and_has_round_ticks(values: list[float]) -> None:
    axis = axis_over(values)
    assert axis.low <= 0 <= axis.high
    for value in (0.0, *values):
        assert 0 <= axis.at(value) <= 100
        assert axis.low <= value <= axis.high
    assert 1 <= len(axis.ticks) <= 7


def test_a_value_beyond_the_axis_stands_at_its_end() -> None:
    axis = Axis(-1.0, 1.0)
    assert (axis.at(-7), axis.at(0), axis.at(float("inf"))) == (0, 50, 100)
    assert axis.ticks == [(0, "−1.0"), (25, "−0.5"), (50, "0"), (75, "+0.5"), (100, "+1.0")]
