"""How far two trainings of one config lie apart, where `reproduce` or `verify` has seen it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from solotune.artifacts.measured import Comparison, EvalReport, ModelScore, TagScore
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.artifacts.run_manifest import Reproduction, RunManifest
from solotune.comparison import verdict
from solotune.errors import ArtifactError


@dataclass(frozen=True)
class Noise:
    """The largest difference that was seen between this run and the same one made again."""

    source: str
    """What was looked at, in words."""
    of_all: dict[str, float]
    """`loss` (nats a token) or a metric -> of all rows; a measure that isn't there is one that nobody looked at."""
    by_tag: dict[str, dict[str, float]]


def noise_of(runs: Path, run_dir: RunDir, manifest: RunManifest, report: EvalReport) -> Noise | None:
    """What is known; None: nobody looked.

    A run that was made again tells most: its adapter is the same to the bit, or both were measured on the same rows
    with the same settings, and the figures differ by so much. Where neither is so, the losses in the logs of two
    trainings stand in for the held-out loss: they are another quantity, which `source` says, and tell nothing of
    metrics.

    Args:
        runs: where all runs are.
        run_dir: of a finished run.
        manifest: its own.
        report: what was measured on it now.
    """
    again = list(_again(runs, run_dir, manifest))
    measured = [(other.run_id, theirs) for other, _ in again if (theirs := _of_the_same_rows(other, report))]
    if measured:
        source = f"reproduce ({', '.join(name for name, _ in measured)}), measured on the same rows"
        return _largest(source, report, [theirs for _, theirs in measured])
    stand_ins = list(_of_logs(manifest, again))
    if stand_ins:
        value, source = max(stand_ins)
        return Noise(source, {"loss": value}, {tag: {"loss": value} for tag in report.comparison_by_tag})
    for source in _the_same(manifest, again):
        return _largest(source, report, [report])
    return None


def widened(report: EvalReport, noise: Noise | None) -> EvalReport:
    """The comparisons of adapter and base with intervals that are wider by it, and the verdicts of these."""
    if noise is None:
        return report
    return msgspec.structs.replace(
        report,
        comparison=_wider(report.comparison, noise.of_all),
        comparison_by_tag={
            tag: _wider(found, noise.by_tag.get(tag, {})) for tag, found in report.comparison_by_tag.items()
        },
        noise_from=noise.source,
    )


def _wider(compared: Mapping[str, Comparison], noise: Mapping[str, float]) -> dict[str, Comparison]:
    found = {}
    for what, one in compared.items():
        by = noise.get(what)
        low, high = one.ci95
        ends = (low - (by or 0.0), high + (by or 0.0))
        is_better = verdict(ends, higher_is_better=what != "loss") if by else one.verdict
        found[what] = msgspec.structs.replace(one, ci95=ends, verdict=is_better, noise=by)
    return found


def _largest(source: str, report: EvalReport, others: Sequence[EvalReport]) -> Noise:
    def largest(ours: ModelScore | TagScore, theirs: Sequence[ModelScore | TagScore]) -> dict[str, float]:
        each = [_differences(ours, one) for one in theirs]
        return {what: max(found.get(what, 0.0) for found in each) for what in ("loss", *ours.metrics)}

    by_tag = {
        tag: largest(ours, [other.adapter.by_tag[tag] for other in others if tag in other.adapter.by_tag])
        for tag, ours in report.adapter.by_tag.items()
        if any(tag in other.adapter.by_tag for other in others)
    }
    return Noise(source, largest(report.adapter, [other.adapter for other in others]), by_tag)


def _differences(ours: ModelScore | TagScore, theirs: ModelScore | TagScore) -> dict[str, float]:
    metrics = {
        name: abs(one.value - theirs.metrics[name].value)
        for name, one in ours.metrics.items()
        if name in theirs.metrics
    }
    return {"loss": abs(ours.loss - theirs.loss), **metrics}


def _of_logs(manifest: RunManifest, again: Sequence[tuple[RunDir, Reproduction]]) -> Iterator[tuple[float, str]]:
    """What trainings that differ showed of the loss on their own rows, step by step."""
    stands_in = "the loss on training rows, which stands in for the held-out one"
    if (seen := manifest.verification) and not seen.rerun.equal:
        yield seen.rerun.max_loss_difference, f"verify, {seen.steps} steps: {stands_in}"
    for other, found in again:
        if not found.adapter_equal:
            yield found.training.max_loss_difference, f"reproduce ({other.run_id}): {stands_in}"


def _the_same(manifest: RunManifest, again: Sequence[tuple[RunDir, Reproduction]]) -> Iterator[str]:
    """Where the same came out to the bit."""
    yield from (f"reproduce ({other.run_id}): the same adapter" for other, found in again if found.adapter_equal)
    if (seen := manifest.verification) and seen.rerun.equal:
        yield f"verify: {seen.steps} steps made twice, the same to the bit"


def _again(runs: Path, run_dir: RunDir, manifest: RunManifest) -> Iterator[tuple[RunDir, Reproduction]]:
    """The run that this one was made again from, and those made again from this one."""
    if manifest.reproduction:
        yield RunDir(runs / manifest.reproduction.of), manifest.reproduction
    for run_id in run_ids(runs):
        try:
            theirs = RunDir(runs / run_id).manifest().reproduction
        except ArtifactError:
            continue  # a damaged run says nothing about this one
        if theirs and theirs.of == run_dir.run_id:
            yield RunDir(runs / run_id), theirs


def _of_the_same_rows(run_dir: RunDir, ours: EvalReport) -> EvalReport | None:
    """What was measured on another run, where it was measured on the same rows in the same way."""
    try:
        theirs, outcome = run_dir.report(), run_dir.manifest().outcome
    except ArtifactError:
        return None
    if theirs is None or theirs.adapter_files != (outcome.adapter if outcome else {}):
        return None

    def how(report: EvalReport) -> tuple[object, ...]:
        # The labels of metrics hold what a user's own code and schemas hashed to.
        settings = report.overrides, report.metric_labels
        return report.split, report.splits, report.examples, report.tokens, *settings

    return theirs if how(theirs) == how(ours) else None
