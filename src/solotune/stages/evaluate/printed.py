"""eval_report.json for people: one table, the verdict in words, and where it got worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from solotune.artifacts.measured import Comparison, EvalReport, ModelScore
from solotune.console import counted, safe, say, table

_VERDICTS = ("better", "worse", "cannot tell")
_TAGS = 10
_MANY = 20
"""Comparisons of which one looks like a difference by chance."""


def print_report(report: EvalReport) -> None:
    """The report as a table and lines for people."""
    models = {"base": report.base, "adapter": report.adapter, **report.artefacts}
    rows = [
        ["loss (nats a token)", *(f"{m.loss:.4f}" for m in models.values()), _shown(report.comparison["loss"], 4)],
        ["perplexity", *(f"{m.perplexity:.4g}" for m in models.values()), ""],
    ]
    for name, summary in report.adapter.metrics.items():
        label = name if summary.n == report.examples else f"{name} ({counted(summary.n, 'row')})"
        compared = report.comparison.get(name)
        rows.append([label, *(_value(m, name) for m in models.values()), _shown(compared, 3) if compared else ""])
    title = f"{report.split}: {counted(report.examples, 'row')}, {report.tokens:,} assistant tokens"
    table(["", *models, "adapter - base, 95 % interval"], rows, title)
    for line in [*_verdicts(report), *_worse_rows(report), *_noise(report)]:
        say(line)
    if report.suite:
        _print_suite(report)


def _value(model: ModelScore, name: str) -> str:
    summary = model.metrics.get(name)
    return f"{summary.value:.3f}" if summary else ""


def _shown(found: Comparison, digits: int) -> str:
    low, high = found.ci95
    return f"{found.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] {found.verdict}"


def _verdicts(report: EvalReport) -> Iterator[str]:
    yield f"adapter beside base: {_in_words(report.comparison)}"
    for name, compared in report.artefact_comparison.items():
        yield f"{name} beside adapter: {_in_words(compared)}"
    by_tag = report.comparison_by_tag
    worse = {tag: [what for what, c in found.items() if c.verdict == "worse"] for tag, found in by_tag.items()}
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
        what: what if c.verdict == "cannot tell" else f"{what} ({c.difference:+.4f})" for what, c in compared.items()
    }
    by_verdict = {v: [shown[what] for what, c in compared.items() if c.verdict == v] for v in _VERDICTS}
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items() if names)


def _worse_rows(report: EvalReport) -> Iterator[str]:
    counts = [f"{c.rows_worse:,} of {c.n:,} by {what}" for what, c in report.comparison.items() if c.rows_worse]
    if counts:
        yield f"rows that the adapter made worse: {', '.join(counts)}; the worst are in the report's worse_rows"


def _noise(report: EvalReport) -> Iterator[str]:
    noise = report.comparison["loss"].noise
    if noise:
        yield f"the interval of the loss is wider by {noise:.4f} on each side: two trainings of it lie so far apart"
    elif noise is None:
        yield f"how far two trainings of this run lie apart isn't known: `invoke verify --run {report.run_id}` looks"


def _print_suite(report: EvalReport) -> None:
    suite = report.suite
    assert suite is not None
    rows = [
        [
            f"{task.task}: {task.metric}",
            f"{task.n:,}",
            f"{task.base:.4g}",
            f"{task.adapter:.4g}",
            f"{task.difference:+.4g}",
            "" if task.stderr is None else f"{task.stderr:.2g}",
            task.verdict,
        ]
        for task in suite.tasks
    ]
    at_most = "" if suite.limit is None else f", at most {counted(suite.limit, 'row')} each"
    table(
        ["", "rows", "base", "adapter", "difference", "its standard error", ""],
        rows,
        f"did it forget? lm-evaluation-harness {suite.lm_eval}{at_most}",
    )
