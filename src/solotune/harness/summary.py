"""From what models did on each row to figures with intervals and verdicts, over all rows and by tag."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from solotune.artifacts.measured import (
    Answered,
    Comparison,
    MetricSummary,
    ModelScore,
    OnFewer,
    PositionLoss,
    TagScore,
    WorseRow,
)
from solotune.comparison import Floats, Interval, Sample, intervals, of_differences, of_ratio, of_scores, verdict
from solotune.console import Progress
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Generated, Measured
from solotune.modeling.likelihood import perplexity

TAGS = 100
"""Of those of most rows; more would say little each, and much by chance."""
WORSE_ROWS = 100
_BOTH = ("base", "adapter")
_Numbers = npt.NDArray[np.int64]
_LARGEST = sys.float_info.max
"""JSON has no word for a perplexity beyond it."""


@dataclass(frozen=True)
class Summary:
    """What is in eval_report.json."""

    models: dict[str, ModelScore]
    comparison: dict[str, Comparison]
    """Adapter minus base: `loss`, then each metric."""
    comparison_by_tag: dict[str, dict[str, Comparison]]
    artefact_comparison: dict[str, dict[str, Comparison]]
    """Each other model minus the adapter, on the rows that it was measured on."""
    on_fewer: list[OnFewer]
    """Base and adapter on some of the rows."""
    worse_rows: dict[str, list[WorseRow]]
    tags_left_out: int


def summarise(measured: Mapping[str, Measured], held_out: HeldOut, some: Collection[Sequence[int]] = ()) -> Summary:
    """All figures at once, so that they share their resamples.

    Args:
        measured: `base`, `adapter`, and what was exported, by name; that may be on some of the rows.
        held_out: the rows.
        some: rows, by number, on which base and adapter are wanted besides; those of `measured` are anyway.
    """
    tags = held_out.tags
    groups: dict[str | None, _Numbers] = {None: np.arange(len(held_out))}
    groups |= {tag: np.array(rows) for tag, rows in islice(tags.items(), TAGS)}
    models = {name: _Model.of(one, len(held_out)) for name, one in measured.items()}
    others = [name for name in models if name not in _BOTH]
    pairs = [("adapter", "base"), *((name, "adapter") for name in others)]
    asked = {tuple(rows) for rows in (*some, *(measured[name].rows for name in others)) if len(rows) < len(held_out)}
    fewer = sorted(asked, key=lambda rows: (len(rows), rows))
    part_of = {(rows, name): models[name].on(rows) for rows in fewer for name in _BOTH}
    everyone: dict[_Name, _Model] = dict(models) | dict(part_of)
    samples = _samples(everyone, models, pairs, groups)
    with Progress("resampling the rows", len(samples), "intervals") as bar:
        found = dict(zip(samples, intervals(list(samples.values()), bar.advance), strict=True))
    places = _places(held_out)

    def compared(tag: str | None, pair: tuple[str, str]) -> dict[str, Comparison]:
        one, other = (models[name] for name in pair)
        return {
            what: _comparison(one.minus(other, what, groups[tag]), found[tag, pair, what], what)
            for what in ("loss", *one.values)
            if (tag, pair, what) in found
        }

    return Summary(
        models={name: _score(name, model, groups, found, places) for name, model in models.items()},
        comparison=compared(None, pairs[0]),
        comparison_by_tag={tag: compared(tag, pairs[0]) for tag in groups if tag is not None},
        artefact_comparison={pair[0]: compared(None, pair) for pair in pairs[1:]},
        on_fewer=[
            OnFewer(len(rows), *(_score((rows, n), part_of[rows, n], {None: groups[None]}, found, None) for n in _BOTH))
            for rows in fewer
        ],
        worse_rows=_worse_rows(models["adapter"], models["base"], groups[None], held_out),
        tags_left_out=max(0, len(tags) - TAGS),
    )


_Name = str | tuple[tuple[int, ...], str]
"""Of a model; with numbers: on these rows alone."""
_Key = tuple[str | None, _Name | tuple[str, str], str]
"""Tag (None: all rows), a model or two, and `loss` or a metric."""


@dataclass(frozen=True)
class _Differences:
    """One model minus another."""

    rows: _Numbers
    """That both were measured on."""
    sums: Floats
    counts: Floats
    """Tokens, for the loss; ones for a metric."""


@dataclass(frozen=True)
class _Model:
    """`Measured` as arrays, one entry for each row that there is."""

    nll: Floats
    """NaN where the model wasn't measured."""
    tokens: Floats
    values: dict[str, Floats]
    """NaN where a metric doesn't apply."""
    token_nll: Floats
    """Of all rows that it was measured on, one behind the other."""
    generated: list[Generated | None]

    @classmethod
    def of(cls, measured: Measured, rows: int) -> _Model:
        def everywhere(values: Sequence[float | None]) -> Floats:
            found = np.full(rows, np.nan)
            found[list(measured.rows)] = np.array(values, np.float64)
            return found

        generated: list[Generated | None] = [None] * rows
        for number, one in zip(measured.rows, measured.generated, strict=True):
            generated[number] = one
        return cls(
            everywhere([score.nll for score in measured.scores]),
            everywhere([float(score.tokens) for score in measured.scores]),
            {name: everywhere(values) for name, values in measured.values.items()},
            np.concatenate([score.token_nll for score in measured.scores]).astype(np.float64),
            generated,
        )

    def on(self, rows: Sequence[int]) -> _Model:
        """On these rows alone; without what by_position needs."""
        others = np.setdiff1d(np.arange(len(self.nll)), rows)

        def without(values: Floats) -> Floats:
            left = values.copy()
            left[others] = np.nan
            return left

        values = {name: without(of) for name, of in self.values.items()}
        wanted = set(rows)
        generated = [one if number in wanted else None for number, one in enumerate(self.generated)]
        return _Model(without(self.nll), without(self.tokens), values, np.zeros(0), generated)

    def among(self, rows: _Numbers) -> _Numbers:
        """Those that it was measured on."""
        return rows[~np.isnan(self.nll[rows])]

    def loss(self, rows: _Numbers) -> float:
        return math.fsum(self.nll[rows]) / math.fsum(self.tokens[rows])

    def applying(self, metric: str, rows: _Numbers) -> Floats:
        values = self.values[metric][rows]
        return values[~np.isnan(values)]

    def minus(self, other: _Model, what: str, rows: _Numbers) -> _Differences:
        rows = self.among(rows)
        if what == "loss":
            return _Differences(rows, self.nll[rows] - other.nll[rows], self.tokens[rows])
        difference = self.values[what][rows] - other.values[what][rows]
        both = ~np.isnan(difference)
        return _Differences(rows[both], difference[both], np.ones(int(both.sum())))


def _samples(
    models: Mapping[_Name, _Model],
    compared: Mapping[str, _Model],
    pairs: Sequence[tuple[str, str]],
    groups: Mapping[str | None, _Numbers],
) -> dict[_Key, Sample]:
    """All of which an interval is wanted."""
    samples: dict[_Key, Sample] = {}
    for tag, rows in groups.items():
        for name, model in models.items():
            for metric in model.values:
                if (tag is None or isinstance(name, str)) and len(values := model.applying(metric, rows)):
                    samples[tag, name, metric] = of_scores(values)
        for pair in pairs if tag is None else pairs[:1]:
            one, other = (compared[name] for name in pair)
            found = one.minus(other, "loss", rows)
            samples[tag, pair, "loss"] = of_ratio(found.sums, found.counts)
            for metric in one.values:
                found = one.minus(other, metric, rows)
                if len(found.rows):
                    samples[tag, pair, metric] = of_differences(found.sums)
    return samples


def _score(
    name: _Name,
    model: _Model,
    groups: Mapping[str | None, _Numbers],
    found: Mapping[_Key, Interval],
    places: Sequence[_Numbers] | None,
) -> ModelScore:
    """On the rows that it was measured on; by place in the answer where `places` has those of all rows."""

    def metrics(tag: str | None) -> dict[str, MetricSummary]:
        return {
            metric: MetricSummary(math.fsum(values) / len(values), found[tag, name, metric], len(values))
            for metric in model.values
            if len(values := model.applying(metric, groups[tag]))
        }

    rows_of_all = model.among(groups[None])
    loss = model.loss(rows_of_all)
    by_tag = {
        tag: TagScore(len(own), int(model.tokens[own].sum()), model.loss(own), metrics(tag))
        for tag, rows in groups.items()
        if tag is not None and len(own := model.among(rows))
    }
    return ModelScore(
        loss,
        min(perplexity(loss), _LARGEST),
        metrics(None),
        by_tag,
        [] if places is None else _by_position(model, np.concatenate([places[i] for i in rows_of_all])),
        len(rows_of_all),
        _answered(model.generated),
    )


def _answered(generated: Sequence[Generated | None]) -> Answered | None:
    given = [one for one in generated if one]
    if not given:
        return None
    return Answered(
        n=len(given),
        cut=sum(one.is_cut for one in given),
        thoughts=sum(bool(one.thoughts) for one in given),
        unfinished_thoughts=sum(one.is_unfinished for one in given),
    )


def _comparison(found: _Differences, interval: Interval, what: str) -> Comparison:
    is_loss = what == "loss"
    better, worse = int((found.sums > 0).sum()), int((found.sums < 0).sum())
    return Comparison(
        difference=math.fsum(found.sums) / math.fsum(found.counts),
        ci95=interval,
        verdict=verdict(interval, higher_is_better=not is_loss),
        n=len(found.rows),
        rows_better=worse if is_loss else better,
        rows_worse=better if is_loss else worse,
    )


def _worse_rows(adapter: _Model, base: _Model, rows: _Numbers, held_out: HeldOut) -> dict[str, list[WorseRow]]:
    worse = {}
    for what in ("loss", *adapter.values):
        found = adapter.minus(base, what, rows)
        each = found.sums / found.counts
        badness = each if what == "loss" else -each
        order = [i for i in np.argsort(-badness, kind="stable").tolist() if badness[i] > 0]
        if order:
            worse[what] = [WorseRow(held_out.rows[found.rows[i]].id, float(each[i])) for i in order[:WORSE_ROWS]]
    return worse


def _places(held_out: HeldOut) -> list[_Numbers]:
    """For each row, of every scored token: how many tokens of its answer stand before it."""
    # A row's first token has nothing before it that could predict it.
    return [
        np.concatenate(
            [np.arange(max(start, 1) - start, end - start) for start, end in held_out.encoded.spans(i)]
            or [np.zeros(0, np.int64)]
        )
        for i in range(len(held_out))
    ]


def _by_position(model: _Model, places: _Numbers) -> list[PositionLoss]:
    """In buckets that double: 0, 1, 2 to 3, 4 to 7, …"""
    assert len(places) == len(model.token_nll)
    buckets = np.where(places > 0, np.floor(np.log2(np.maximum(places, 1))) + 1, 0).astype(np.int64)
    sums, counts = np.bincount(buckets, model.token_nll), np.bincount(buckets)
    return [
        PositionLoss(2 ** (b - 1) if b else 0, 2**b, int(counts[b]), float(sums[b] / counts[b]))
        for b in range(len(counts))
        if counts[b]
    ]
