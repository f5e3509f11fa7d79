"""eval_report.json for people: tables, the verdict in words, where it got worse, and what to know about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from solotune.artifacts.measured import Comparison, EvalReport
from solotune.console import counted, safe, say, table, warn
from solotune.report.caveats import BOTH, endings, noise, too_few, too_many_cut
from solotune.report.models import ModelsTable, models

_VERDICTS = ("better", "worse", "cannot tell")
_TAGS = 10
_MANY = 20
"""Comparisons of which one looks like a difference by chance."""


def print_report(report: EvalReport) -> None:
    """Base and adapter."""
    title = f"{report.split}: {counted(report.examples, 'row')}, {report.tokens:,} assistant tokens"
    _print_both(report, title)
    say(f"adapter beside base: {_in_words(report.comparison)}")
    for line in [*_by_tag(report), *_worse_rows(report)]:
        say(line)
    if few := too_few(report):
        say(safe(few, 600))
    unknown = f"how far two trainings of this run lie apart isn't known: `invoke reproduce --run {report.run_id}` looks"
    say(safe(noise(report), 600) or unknown)
    _print_endings(report, BOTH)


def print_suite(report: EvalReport) -> None:
    """What the tasks of lm-evaluation-harness found, where they were asked."""
    suite = report.suite
    if suite is None:
        return
    rows = [
        [
            safe(f"{task.task}: {task.metric}", 80),
            f"{task.n:,}",
            f"{task.base:.4g}",
            f"{task.adapter:.4g}",
            f"{task.difference:+.4g}",
            "" if task.stderr is None else f"{task.stderr:.2g}",
            task.verdict,
        ]
        for task in suite.tasks
    ]
    at_most = "" if suite.limit is None else f", of each task the first {counted(suite.limit, 'row')} at most"
    table(
        ["", "rows", "base", "adapter", "difference", "its standard error", ""],
        rows,
        f"did it forget? lm-evaluation-harness {safe(suite.lm_eval, 20)}{at_most}",
    )


def print_exports(report: EvalReport) -> None:
    """Everything that was exported, in tables of which each is of the same rows; what is missing."""
    for one in models(report):
        if one.has_exports:
            _print_models(report, one)
    for name, compared in report.artefact_comparison.items():
        rows = report.artefacts[name].examples
        on = "" if rows == report.examples else f" on {counted(rows, 'row')} of them"
        say(f"{safe(name, 60)} beside adapter{on}: {_in_words(compared)}")
    _print_endings(report, report.artefacts)
    if report.artefacts_of_before:
        names = ", ".join(safe(name, 60) for name in report.artefacts_of_before)
        say(
            f"measured before, when base and adapter came out the same: {names}; "
            f"`invoke evaluate --run {report.run_id}` measures all anew"
        )
    if report.artefacts_missing:
        names = ", ".join(safe(name, 60) for name in report.artefacts_missing)
        say(f"not measured: {names}; `invoke evaluate --run {report.run_id}` measures all that was exported")


def _print_both(report: EvalReport, title: str) -> None:
    first, *_ = models(report)
    rows = []
    for i, measure in enumerate(first.measures):
        base, adapter = (first.models[name][i].value for name in ("base", "adapter"))
        one = report.comparison.get(measure)
        shown = _shown(one, 4 if measure == "loss" else 3) if one else ""
        rows.append([_label(report, measure), base, adapter, shown])
    table(["", "base", "adapter", "adapter - base, 95 % interval"], [row for row in rows if any(row[1:])], title)


def _print_models(report: EvalReport, one: ModelsTable) -> None:
    """Models side by side, on one and the same rows."""
    title = f"exports beside base and adapter, {one.rows} of {report.split}"
    notes = dict.fromkeys(one.not_kept, " (not kept)") | dict.fromkeys(report.artefacts_of_before, " (before)")
    heads = [safe(name, 40) + notes.get(name, "") for name in one.models]
    rows = [
        [_label(report, measure), *(cells[i].value for cells in one.models.values())]
        for i, measure in enumerate(one.measures)
    ]
    table(["", *heads], [row for row in rows if any(row[1:])], title)


def _label(report: EvalReport, measure: str) -> str:
    if measure == "loss":
        return "loss (nats a token)"
    of = report.adapter.metrics.get(measure)
    name = safe(measure, 60)
    return name if of is None or of.n == report.examples else f"{name} ({counted(of.n, 'row')})"


def _shown(found: Comparison, digits: int) -> str:
    low, high = found.ci95
    return f"{found.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] {found.verdict}"


def _by_tag(report: EvalReport) -> Iterator[str]:
    by_tag = report.comparison_by_tag
    worse = {
        tag: [safe(what, 60) for what, c in found.items() if c.verdict == "worse"] for tag, found in by_tag.items()
    }
    worse = {tag: names for tag, names in worse.items() if names}
    for tag, names in list(worse.items())[:_TAGS]:
        rows = report.adapter.by_tag[tag].examples
        yield f"  rows tagged {safe(tag, 40)} ({rows:,}): worse in {', '.join(names)}"
    if len(worse) > _TAGS:
        yield f"  and {counted(len(worse) - _TAGS, 'tag')} more"
    comparisons = sum(map(len, by_tag.values()))
    if worse and comparisons >= _MANY:
        yield f"  {comparisons} comparisons by tag: about {comparisons / _MANY:.0f} of them differ by chance"


def _in_words(compared: Mapping[str, Comparison]) -> str:
    # How much, since with many rows a difference that nobody would notice is one, too.
    shown = {
        what: safe(what, 60) if c.verdict == "cannot tell" else f"{safe(what, 60)} ({c.difference:+.4f})"
        for what, c in compared.items()
    }
    by_verdict = {v: [shown[what] for what, c in compared.items() if c.verdict == v] for v in _VERDICTS}
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names)


def _worse_rows(report: EvalReport) -> Iterator[str]:
    counts = [
        f"{c.rows_worse:,} of {c.n:,} by {safe(what, 60)}" for what, c in report.comparison.items() if c.rows_worse
    ]
    if counts:
        yield f"rows that the adapter made worse: {', '.join(counts)}; the worst are in the report's worse_rows"


def _print_endings(report: EvalReport, names: Collection[str]) -> None:
    """How answers of these models began and ended."""
    for text in endings(report, names):
        say(safe(text, 600))
    if cut := too_many_cut(report, names):
        warn(safe(cut, 600))
