from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.harness.conftest import make_row

from solotune.artifacts.measured import Answered
from solotune.dataset.contract import Row
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Generated, Measured
from solotune.harness.summary import TAGS, WORSE_ROWS, summarise
from solotune.modeling.likelihood import RowScore

Make = Callable[[list[Row]], HeldOut]


def measured(held_out: HeldOut, nll: Sequence[float], values: dict[str, list[float | None]] | None = None) -> Measured:
    """Every token of row i is as unlikely as nll[i]."""
    scores = []
    for row, each in zip(held_out.encoded, nll, strict=True):
        count = sum(label != -100 for label in row.labels[1:])
        scores.append(RowScore(each * count, count, np.full(count, each, np.float32), np.zeros(count, np.int32)))
    n = len(nll)
    return Measured(scores, [""] * n, [None] * n, values or {}, [None] * n, range(n))


@pytest.fixture
def rows(held_out_of: Make) -> HeldOut:
    """Twenty of them, answers of two lengths; ten carry `a`, four `b`."""
    answers = ["short", "a much longer answer than the other one is"]
    tags = [["a", *(["b"] if i < 8 else [])] if i % 2 == 0 else [] for i in range(20)]
    return held_out_of([make_row(i, f"question {i}", answers[i % 2], tags=tags[i]) for i in range(20)])


def test_the_loss_is_weighted_by_token_and_compared_by_row(rows: HeldOut) -> None:
    better = [1.0 + 0.01 * i for i in range(20)]
    found = summarise({"base": measured(rows, [2.0] * 20), "adapter": measured(rows, better)}, rows)
    tokens = [row.trained_tokens for row in rows.encoded]
    expected = sum(n * x for n, x in zip(tokens, better, strict=True)) / sum(tokens)
    assert found.models["adapter"].loss == pytest.approx(expected)
    assert found.models["base"].perplexity == pytest.approx(math.exp(2.0))
    loss = found.comparison["loss"]
    assert loss.difference == pytest.approx(expected - 2.0)
    assert loss.ci95[0] < loss.difference < loss.ci95[1] < 0
    assert (loss.verdict, loss.n, loss.rows_better, loss.rows_worse, loss.noise) == ("better", 20, 20, 0, None)
    assert found.worse_rows == {}


def test_every_tag_has_its_own_figures_and_verdicts(rows: HeldOut) -> None:
    tagged = [2 * (i % 2 == 0) - 1.0 + 0.01 * i for i in range(20)]
    right: list[float | None] = [float(i % 2) for i in range(20)]
    none: list[float | None] = [0.0] * 20
    base = measured(rows, [2.0] * 20, {"exact_match": none})
    adapter = measured(rows, [2.0 + x for x in tagged], {"exact_match": right})
    found = summarise({"base": base, "adapter": adapter}, rows)
    assert list(found.comparison_by_tag) == ["a", "b"]  # most rows first
    a, b = found.comparison_by_tag["a"], found.comparison_by_tag["b"]
    assert (a["loss"].verdict, a["loss"].n, a["exact_match"].verdict) == ("worse", 10, "cannot tell")
    assert (b["loss"].verdict, b["loss"].n) == ("cannot tell", 4)  # all four worse: too few to tell
    score = found.models["adapter"].by_tag["a"]
    assert score.examples == 10
    assert score.metrics["exact_match"].value == 0.0
    assert score.loss == pytest.approx(2.0 + 1.0 + 0.09)
    assert found.comparison["exact_match"].verdict == "better"
    assert found.comparison["exact_match"].rows_better == 10


def test_a_metric_counts_the_rows_that_it_applies_to(rows: HeldOut) -> None:
    some: list[float | None] = [1.0 if i < 12 else None for i in range(20)]
    other: list[float | None] = [0.0 if i > 3 else None for i in range(20)]
    nowhere: list[float | None] = [None] * 20
    base = measured(rows, [1.0] * 20, {"contains": other, "rouge_l": nowhere})
    adapter = measured(rows, [1.0] * 20, {"contains": some, "rouge_l": nowhere})
    found = summarise({"base": base, "adapter": adapter}, rows)
    assert (found.models["adapter"].metrics["contains"].n, found.models["base"].metrics["contains"].n) == (12, 16)
    assert found.comparison["contains"].n == 8
    assert "rouge_l" not in found.models["adapter"].metrics
    assert "rouge_l" not in found.comparison


def test_what_was_exported_is_held_against_the_adapter(rows: HeldOut) -> None:
    models = {name: measured(rows, [x] * 20) for name, x in (("base", 3.0), ("adapter", 1.0), ("merged", 1.5))}
    found = summarise(models, rows)
    assert found.artefact_comparison["merged"]["loss"].difference == pytest.approx(0.5)
    assert found.artefact_comparison["merged"]["loss"].verdict == "worse"
    assert list(found.models) == ["base", "adapter", "merged"]
    assert found.on_fewer == []


def test_what_was_measured_on_fewer_rows_is_compared_on_these(rows: HeldOut) -> None:
    right: list[float | None] = [float(i % 2) for i in range(20)]
    odd = range(1, 17, 2)  # eight, of which none carries a tag
    models = {
        "base": measured(rows, [3.0] * 20, {"contains": right}),
        "adapter": measured(rows, [1.0 if i % 2 else 2.0 for i in range(20)], {"contains": right}),
    }
    gguf = replace(measured(rows.some(odd), [1.5] * 8, {"contains": [0.5] * 8}), rows=odd)
    found = summarise({**models, "gguf": gguf}, rows, [range(5), odd, range(20)])
    assert (found.models["gguf"].examples, found.models["adapter"].examples) == (8, 20)
    assert found.models["gguf"].loss == pytest.approx(1.5)
    assert sum(bucket.tokens for bucket in found.models["gguf"].by_position) == sum(s.tokens for s in gguf.scores)
    compared = found.artefact_comparison["gguf"]
    assert (compared["loss"].n, compared["loss"].difference) == (8, pytest.approx(0.5))
    assert (compared["contains"].n, compared["contains"].difference) == (8, pytest.approx(-0.5))
    assert found.models["gguf"].by_tag == {}
    assert [one.examples for one in found.on_fewer] == [5, 8]
    on_odd = found.on_fewer[1]
    assert (on_odd.adapter.loss, on_odd.base.loss) == (pytest.approx(1.0), pytest.approx(3.0))
    assert (on_odd.adapter.metrics["contains"].n, on_odd.adapter.metrics["contains"].value) == (8, 1.0)
    assert (on_odd.adapter.by_tag, on_odd.adapter.by_position) == ({}, [])
    assert found.comparison == summarise(models, rows).comparison


def test_how_answers_ended_is_counted(rows: HeldOut) -> None:
    one = measured(rows, [1.0] * 20)
    generated = [Generated(i < 3, "<think></think>" if i < 2 else "", i == 2) if i < 12 else None for i in range(20)]
    found = summarise({"base": one, "adapter": replace(one, generated=generated)}, rows)
    assert found.models["adapter"].answered == Answered(12, cut=3, thoughts=2, unfinished_thoughts=1)
    assert found.models["base"].answered is None


def test_the_worst_rows_stand_first_and_are_bounded(held_out_of: Make) -> None:
    rows = held_out_of([make_row(i, "q", "a") for i in range(WORSE_ROWS + 20)])
    n = len(rows)
    fallen: list[float | None] = [0.0 if i == 7 else 1.0 for i in range(n)]
    whole: list[float | None] = [1.0] * n
    base = measured(rows, [1.0] * n, {"exact_match": whole})
    adapter = measured(rows, [1.0 + 0.01 * i for i in range(n)], {"exact_match": fallen})
    found = summarise({"base": base, "adapter": adapter}, rows)
    worst = found.worse_rows["loss"]
    assert [row.id for row in worst[:2]] == [f"row-{n - 1}", f"row-{n - 2}"]
    assert worst[0].difference == pytest.approx(0.01 * (n - 1))
    assert len(worst) == WORSE_ROWS
    assert found.comparison["loss"].rows_worse == n - 1
    assert [(row.id, row.difference) for row in found.worse_rows["exact_match"]] == [("row-7", -1.0)]


def test_places_are_counted_from_the_beginning_of_each_answer(held_out: HeldOut) -> None:
    """The last row has two answers."""
    scores = []
    for i in range(len(held_out)):
        places = np.concatenate([np.arange(end - start) for start, end in held_out.encoded.spans(i)])
        scores.append(RowScore(float(places.sum()), len(places), places.astype(np.float32), np.zeros(0, np.int32)))
    one = Measured(scores, [""] * 6, [None] * 6, {}, [None] * 6, range(6))
    buckets = summarise({"base": one, "adapter": one}, held_out).models["adapter"].by_position
    assert (buckets[0].start, buckets[0].end, buckets[0].tokens, buckets[0].loss) == (0, 1, 7, 0.0)
    assert (buckets[1].start, buckets[1].loss) == (1, 1.0)
    assert (buckets[2].start, buckets[2].end, buckets[2].loss) == (2, 4, 2.5)
    assert all(bucket.start <= bucket.loss < bucket.end for bucket in buckets)


def test_a_perplexity_beyond_all_numbers_is_the_largest_one(rows: HeldOut) -> None:
    one = measured(rows, [1000.0] * 20)
    assert summarise({"base": one, "adapter": one}, rows).models["base"].perplexity == sys.float_info.max


def test_tags_beyond_the_most_frequent_are_counted(held_out_of: Make) -> None:
    rows = held_out_of([make_row(i, "q", "a", tags=[f"tag-{i}"]) for i in range(TAGS + 3)])
    one = measured(rows, [1.0] * len(rows))
    found = summarise({"base": one, "adapter": one}, rows)
    assert found.tags_left_out == 3
    assert len(found.comparison_by_tag) == TAGS
