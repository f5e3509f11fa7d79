"""evaluate: base model and adapter on the same held-out rows -> eval_report.json and predictions.jsonl."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solotune.artifacts.files import remove_staged, write_json, write_jsonl
from solotune.artifacts.lock import held
from solotune.artifacts.measured import Comparison, EvalReport, MetricSummary, ModelScore
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import SCHEMA_VERSION, RunDir, RunManifest
from solotune.artifacts.splits_dir import SplitsDir
from solotune.comparison import mean_interval, ratio_interval, verdict
from solotune.config.load import load
from solotune.config.schema import RunConfig, Split
from solotune.console import Progress, say, stage, table
from solotune.dataset.contract import Row
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError
from solotune.metrics import AnswerMetric, asked
from solotune.modeling import card, determinism
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import ChatEncoder, Encoded
from solotune.modeling.generate import generate
from solotune.modeling.likelihood import RowScore, loss, perplexity, score
from solotune.modeling.lora import load_adapter
from solotune.modeling.token_cache import tokenised

RUNS = Path("runs")


@dataclass(frozen=True)
class _Measured:
    """What one model did on the rows: scores always, answers when metrics were asked for."""

    scores: list[RowScore]
    answers: list[str]
    values: dict[str, list[float | None]]
    """Metric -> a value for each row; None where it doesn't apply."""


def run(wanted: str, split: Split | None = None) -> EvalReport:
    """Measures a finished run. Measuring again replaces the report; another split has files of its own.

    Args:
        wanted: run id, unique prefix, or `latest`.
        split: another split than the config's.

    Raises:
        ArtifactError: the run isn't finished, or its splits or base model have changed since.
    """
    with stage("evaluate"), ExitStack() as locks:
        start = time.monotonic()
        run_dir = RunDir.find(RUNS, wanted)
        locks.enter_context(held(run_dir.path, command := f"evaluate --run {run_dir.run_id}"))
        remove_staged(run_dir.path)
        manifest, outcome = run_dir.finished()
        config = load(run_dir.config_of(manifest))
        determinism.start(config)
        card.enforce(config)
        split = split or config.evaluation.split
        locks.enter_context(held(Path(config.dataset.splits_dir), command, shared=True))
        rows = _held_out(config, manifest, split)
        base = ModelDir.of(config.model)
        if base.open(hashes=True).files != manifest.base_model:
            raise ArtifactError(
                f"the base model in {base.path} isn't the one that run {run_dir.run_id} was trained on",
                "Bring that one back with `invoke fetch`",
            )
        encoder = ChatEncoder.open(base, str(run_dir.adapter / base.chat_template.name))
        say(f"run {run_dir.run_id}: {len(rows)} rows of {split}")
        measured = _measure_both(config, run_dir, base, encoder, split, rows)
        report = EvalReport(
            schema_version=SCHEMA_VERSION,
            run_id=run_dir.run_id,
            split=split,
            examples=len(rows),
            tokens=sum(s.tokens for s in measured["base"].scores),
            base=_summary(measured["base"]),
            adapter=_summary(measured["adapter"]),
            comparison=_compare(measured["base"], measured["adapter"]),
            splits=manifest.splits,
            adapter_files=outcome.adapter,
            seconds=round(time.monotonic() - start, 1),
        )
        report_path, predictions_path = run_dir.report_paths(None if split == config.evaluation.split else split)
        report_path.unlink(missing_ok=True)  # no moment shows new answers beside an old report
        write_jsonl(predictions_path, _predictions(rows, measured))
        write_json(report_path, report)
        print_report(report)
        say(f"every answer: {predictions_path}")
        say(f"next: invoke export --run {run_dir.run_id} --merge")
    return report


def print_report(report: EvalReport) -> None:
    """The report as a table for people."""
    rows = [
        [
            "loss (nats a token)",
            f"{report.base.loss:.4f}",
            f"{report.adapter.loss:.4f}",
            _shown(report, "loss"),
        ],
        ["perplexity", f"{report.base.perplexity:.4g}", f"{report.adapter.perplexity:.4g}", ""],
    ]
    for name in report.adapter.metrics:
        base, adapter = report.base.metrics[name], report.adapter.metrics[name]
        label = name if adapter.n == report.examples else f"{name} ({adapter.n} rows)"
        rows.append([label, f"{base.value:.3f}", f"{adapter.value:.3f}", _shown(report, name)])
    title = f"{report.split}: {report.examples} rows, {report.tokens:,} assistant tokens"
    table(["", "base", "adapter", "difference, 95 % interval"], rows, title)


def _held_out(config: RunConfig, manifest: RunManifest, split: Split) -> list[Row]:
    splits = SplitsDir(Path(config.dataset.splits_dir))
    if splits.open(config.dataset).outputs != manifest.splits:
        raise ArtifactError(
            f"{splits.path} isn't what the run was trained on",
            "Prepare the data it was trained on, or train again",
        )
    rows = list(read_rows(splits.split(split)))[: config.evaluation.max_examples]
    if not rows:
        raise DataError(f"{splits.split(split)} is empty", f"Raise dataset.{split}_fraction, or declare rows for it")
    return rows


def _measure_both(
    config: RunConfig, run_dir: RunDir, base: ModelDir, encoder: ChatEncoder, split: Split, rows: Sequence[Row]
) -> dict[str, _Measured]:
    # Whole rows, whatever dataset.on_overflow says: what is measured is never cut.
    path = SplitsDir(Path(config.dataset.splits_dir)).split(split)
    encoded = tokenised(path, lambda: (row.messages for row in read_rows(path)), encoder)[: len(rows)]
    prompts = [encoded.prompt(i) for i in range(len(rows))]
    model = load_adapter(load_base_model(base, config), run_dir.adapter)
    adapter = _measure("adapter", model, config, encoder, rows, encoded, prompts)
    with model.disable_adapter():
        bare = _measure("base", model, config, encoder, rows, encoded, prompts)
    return {"base": bare, "adapter": adapter}


def _measure(
    name: str,
    model: Any,
    config: RunConfig,
    encoder: ChatEncoder,
    rows: Sequence[Row],
    encoded: Sequence[Encoded],
    prompts: Sequence[list[int]],
) -> _Measured:
    with Progress(f"{name}: scoring", len(rows), "rows") as bar:
        scores = score(model, encoded, config, on_rows=bar.advance)
    metrics = [metric for metric in asked(config.evaluation) if isinstance(metric, AnswerMetric)]
    answering = [i for i, row in enumerate(rows) if any(metric.applies_to(row.meta.tags) for metric in metrics)]
    answers = [""] * len(rows)
    if answering:
        with Progress(f"{name}: answering", len(answering), "rows") as bar:
            given = generate(model, [prompts[i] for i in answering], encoder, config, on_rows=bar.advance)
        for i, answer in zip(answering, given, strict=True):
            answers[i] = encoder.content_of(answer, [m.role for m in rows[i].messages])
    values = {
        metric.label: [
            metric.score(answers[i], row.messages[-1].content, row.id) if metric.applies_to(row.meta.tags) else None
            for i, row in enumerate(rows)
        ]
        for metric in metrics
    }
    return _Measured(scores, answers, values)


def _summary(measured: _Measured) -> ModelScore:
    mean = loss(measured.scores)
    metrics = {}
    for name, values in measured.values.items():
        applying = [v for v in values if v is not None]
        if applying:
            metrics[name] = MetricSummary(math.fsum(applying) / len(applying), mean_interval(applying), len(applying))
    return ModelScore(mean, perplexity(mean), metrics)


def _compare(base: _Measured, adapter: _Measured) -> dict[str, Comparison]:
    nll = [a.nll - b.nll for a, b in zip(adapter.scores, base.scores, strict=True)]
    tokens = [s.tokens for s in base.scores]
    found = {"loss": _comparison(nll, tokens, higher_is_better=False)}
    for name in adapter.values:
        pairs = zip(adapter.values[name], base.values[name], strict=True)
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if differences:
            found[name] = _comparison(differences, [1] * len(differences), higher_is_better=True)
    return found


def _comparison(sums: Sequence[float], counts: Sequence[int], *, higher_is_better: bool) -> Comparison:
    interval = ratio_interval(sums, counts)
    return Comparison(math.fsum(sums) / sum(counts), interval, verdict(interval, higher_is_better=higher_is_better))


def _predictions(rows: Sequence[Row], measured: dict[str, _Measured]) -> list[dict[str, Any]]:
    return [
        {
            "id": row.id,
            "tags": row.meta.tags,
            "messages": row.messages[:-1],
            "reference": row.messages[-1].content,
            **{
                name: {
                    "answer": m.answers[i],
                    "nll": m.scores[i].nll,
                    "tokens": m.scores[i].tokens,
                    "metrics": {metric: values[i] for metric, values in m.values.items()},
                }
                for name, m in measured.items()
            },
        }
        for i, row in enumerate(rows)
    ]


def _shown(report: EvalReport, name: str) -> str:
    c = report.comparison[name]
    return f"{c.difference:+.3f} [{c.ci95[0]:+.3f}, {c.ci95[1]:+.3f}] {c.verdict}"
