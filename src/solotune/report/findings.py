"""What stands above everything else: the verdict, what else was found out, what is wrong, and the figures of a run."""

from __future__ import annotations

from typing import NamedTuple

from solotune.artifacts.measured import Artefact, EvalReport, ExportRecord, Suite
from solotune.artifacts.run_manifest import RunManifest
from solotune.artifacts.splits_dir import SplitsManifest
from solotune.console import counted, duration
from solotune.report.caveats import some, too_many_cut
from solotune.report.gathered import Gathered
from solotune.report.verdict import HEADLINES, overall

_STATES = {
    "running": "It is being trained",
    "unfinished": "It hasn't finished training",
    "trained": "It hasn't been measured yet",
    "exported": "It hasn't been measured yet",
    "damaged": "The run can't be read",
}


class Finding(NamedTuple):
    """A sentence, and the verdict whose sign stands before it."""

    verdict: str
    text: str


class Fact(NamedTuple):
    """A figure."""

    name: str
    before: str
    """Of the base model; empty: there is none."""
    value: str
    unit: str


def headline(run: Gathered) -> str:
    """The verdict in a few words; of a run that wasn't measured, how far it has come."""
    return HEADLINES[overall(run.report).verdict] if run.report else _STATES[run.state]


def lead(run: Gathered) -> str:
    """The sentence below the headline."""
    run_id, last = run.run_dir.run_id, run.log[-1].step if run.log else 0
    if run.report:
        return overall(run.report).loss
    if run.state == "running":
        return f"At step {last:,} when this page was written."
    if run.state == "unfinished":
        return f"Its log ends at step {last:,}; `invoke train --resume {run_id}` goes on from its last checkpoint."
    if run.state == "damaged":
        return "Without its `manifest.json` there is no telling what it is."
    return f"`invoke evaluate --run {run_id}` measures base model and adapter on held-out rows."


def findings(run: Gathered) -> list[Finding]:
    """What the metrics, the suite, the exports and `verify` say."""
    found: list[Finding] = []
    if run.report:
        found += _by_metrics(run.report)
        found += _forgotten(run.report.suite)
    if run.exported:
        found += _shipped(run.exported)
    if run.manifest:
        found += _same(run.manifest)
    return found


def _by_metrics(report: EvalReport) -> list[Finding]:
    words = {"better": "Better in", "worse": "Worse in", "cannot tell": "Cannot tell in"}
    return [Finding(verdict, f"{words[verdict]} {', '.join(names)}.") for verdict, names in overall(report).metrics]


def _forgotten(suite: Suite | None) -> list[Finding]:
    if suite is None or not suite.tasks:
        return []
    worse = [task.task for task in suite.tasks if task.verdict == "worse"]
    of = f"{counted(len(suite.tasks), 'task')} of lm-evaluation-harness"
    if worse:
        return [Finding("worse", f"It forgot: worse in {len(worse)} of {of} ({some(worse)}).")]
    # No verdict of "worse" isn't one of "nothing forgotten": few rows tell nothing.
    return [Finding("cannot tell", f"It isn't known to have forgotten anything: worse in none of {of}.")]


def _shipped(exported: ExportRecord) -> list[Finding]:
    def named(passed: bool, kept: bool) -> list[str]:
        return [
            f"{name}{_how_far(one)}"
            for name, one in exported.artefacts.items()
            if one.passed is passed and (one.path is not None) is kept
        ]

    found = []
    if names := named(passed=True, kept=True):
        close = f"{_is(names)} as close to the adapter as asked"
        found.append(Finding("better", f"As written to disk, {some(names)} {close}."))
    if names := named(passed=False, kept=True):
        found.append(Finding("worse", f"As written to disk, {some(names)} {_is(names)} not what was trained."))
    if names := named(passed=False, kept=False):
        found.append(Finding("cannot tell", f"{some(names)} was measured too, didn't pass, and wasn't kept."))
    return found


def _how_far(artefact: Artefact) -> str:
    """Its own figure and bound: those of a merge and of a GGUF of few bits aren't the same."""
    kl = artefact.divergence.kl_mean if artefact.divergence else None
    bound = artefact.tolerance.get("max_kl")
    allowed = "" if bound is None else f" of at most {bound:g}"
    return "" if kl is None else f" (KL {kl:.2g}{allowed} nats a token)"


def _same(manifest: RunManifest) -> list[Finding]:
    found = manifest.verification
    if found is None:
        return []
    equal = found.rerun.equal and found.resume.equal
    steps = f"({counted(found.steps, 'step')} compared)"
    if equal:
        return [Finding("better", f"Made twice, and stopped and resumed, it is the same to the bit {steps}.")]
    return [Finding("worse", f"Made again, it isn't the same to the bit {steps}.")]


def problems(run: Gathered) -> list[str]:
    """What a reader must know before believing the rest."""
    found = list(run.problems)
    if run.not_finite and run.state != "running":
        stopped, rows = run.not_finite, run.not_finite["rows"]
        ids = some([str(row) for row in rows]) if isinstance(rows, list) and rows else "rows that aren't known"
        found.append(
            f"Step {stopped['step']} stopped it: the loss was {stopped['loss']}, the gradient's norm "
            f"{stopped['grad_norm']}. In it were {ids}."
        )
    if run.splits and run.report:
        found += _leaks(run.splits)
    if run.report and (cut := too_many_cut(run.report)):
        found.append(cut)
    return found


def _leaks(splits: SplitsManifest) -> list[str]:
    """Clustered near-duplicates are on one side already."""
    if splits.near is None or not sum(splits.near.rows.values()):
        return []
    rows = " and ".join(f"{counted(n, 'row')} of {split}" for split, n in splits.near.rows.items() if n)
    have = "has" if sum(splits.near.rows.values()) == 1 else "have"
    return [f"{rows} {have} a near-duplicate in another split: what is measured there may be remembered, not learned."]


def facts(run: Gathered) -> list[Fact]:
    """Half a dozen figures."""
    found = []
    if report := run.report:
        loss = f"{report.base.loss:.4f}", f"{report.adapter.loss:.4f}"
        found.append(Fact("Held-out loss", *loss, "nats a token, base and adapter"))
        of_most_rows = sorted(report.adapter.metrics.items(), key=lambda metric: -metric[1].n)
        for name, of in of_most_rows[:2]:
            base = report.base.metrics.get(name)
            found.append(Fact(name, f"{base.value:.3f}" if base else "", f"{of.value:.3f}", counted(of.n, "row")))
    if run.manifest and (outcome := run.manifest.outcome):
        if outcome.eval_loss is not None:
            found.append(Fact("Val loss", "", f"{outcome.eval_loss:.4f}", "nats a token, after the last step"))
        rate = outcome.tokens / max(outcome.seconds, 1e-9)
        took = f"{counted(outcome.steps, 'step')}, {rate:,.0f} tokens/s"
        found.append(Fact("Training", "", duration(outcome.seconds), took))
        if outcome.peak_vram_bytes:
            found.append(Fact("Peak VRAM", "", f"{outcome.peak_vram_bytes / 2**30:.1f} GiB", "of the GPU's memory"))
    return found


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
