"""evaluate: base, adapter and what was exported on the same held-out rows -> eval_report.json, predictions.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from solotune import report as pages
from solotune.artifacts.files import read_record, remove_staged, write_json, write_jsonl
from solotune.artifacts.lock import held
from solotune.artifacts.measured import Answer, EvalReport, Prediction, Suite
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import SCHEMA_VERSION, Outcome, RunDir
from solotune.config.load import load
from solotune.config.schema import RunConfig, Split
from solotune.console import counted, safe, say, stage, warn
from solotune.errors import ArtifactError
from solotune.harness import suite as forgetting
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Measured, Metric, choices_of, measure
from solotune.harness.noise import noise_of
from solotune.harness.summary import summarise
from solotune.metrics import ChoiceMetric, asked, unused_tags
from solotune.modeling import card, determinism
from solotune.modeling.base_model import load_base_model
from solotune.modeling.likelihood import loss
from solotune.modeling.lora import load_adapter
from solotune.modeling.subject import TorchSubject
from solotune.stages.evaluate.exported import exported, opened
from solotune.stages.evaluate.printed import print_report

RUNS = Path("runs")


def run(
    wanted: str, split: Split | None = None, suite: Sequence[str] | None = None, overrides: Sequence[str] = ()
) -> EvalReport:
    """Measures a finished run. Measuring again replaces the report; another split has files of its own.

    Args:
        wanted: run id, unique prefix, or `latest`.
        split: another split than the config's.
        suite: tasks of lm-evaluation-harness that base and adapter are asked too; empty: those of the config; None:
            no such tasks.
        overrides: `evaluation.key=value` over the run's config.

    Raises:
        ArtifactError: the run isn't finished, or its splits, base model or export have changed since.
        ModelError: a model's loss is no number.
    """
    with stage("evaluate"), ExitStack() as locks:
        start = time.monotonic()
        run_dir = RunDir.find(RUNS, wanted)
        locks.enter_context(held(run_dir.path, command := f"evaluate --run {run_dir.run_id}"))
        remove_staged(run_dir.path)
        manifest, outcome = run_dir.finished()
        its_split = load(run_dir.config_of(manifest)).evaluation.split
        config = load(run_dir.config, overrides)
        asked_suite = forgetting.prepare(config.evaluation.suite, suite) if suite is not None else None
        metrics = asked(config.evaluation)
        locks.enter_context(held(Path(config.dataset.splits_dir), command, shared=True))
        base = ModelDir.of(config.model)
        base.open_as_trained(run_dir.run_id, manifest.base_model)
        artefacts = exported(run_dir)
        held_out = HeldOut.of_run(run_dir, manifest, config, split, config.evaluation.max_examples)
        _check(metrics, held_out)
        determinism.start(config)
        card.enforce(config)
        say(f"run {run_dir.run_id}: {counted(len(held_out), 'row')} of {held_out.split}")
        measured, suite_found = _measure_trained(config, run_dir, base, held_out, metrics, asked_suite)
        for name, artefact in artefacts.items():
            with opened(run_dir, artefact, held_out.encoder, config) as subject:
                measured[name] = measure(name, subject, held_out, metrics)
        noise = noise_of(RUNS, run_dir, manifest, held_out.split, loss(measured["adapter"].scores))
        summary = summarise(measured, held_out, noise)
        report_path, predictions_path = run_dir.report_paths(None if held_out.split == its_split else held_out.split)
        report = EvalReport(
            schema_version=SCHEMA_VERSION,
            run_id=run_dir.run_id,
            split=held_out.split,
            examples=len(held_out),
            tokens=sum(s.tokens for s in measured["base"].scores),
            base=summary.models["base"],
            adapter=summary.models["adapter"],
            comparison=summary.comparison,
            splits=manifest.splits,
            adapter_files=outcome.adapter,
            seconds=round(time.monotonic() - start, 1),
            comparison_by_tag=summary.comparison_by_tag,
            worse_rows=summary.worse_rows,
            artefacts={name: summary.models[name] for name in artefacts},
            artefact_comparison=summary.artefact_comparison,
            artefact_files={name: artefact.files for name, artefact in artefacts.items()},
            metric_labels={metric.label: metric.words for metric in metrics if metric.words},
            suite=suite_found or _suite_of_before(report_path, outcome),
            overrides=list(overrides),
            tags_left_out=summary.tags_left_out,
        )
        report_path.unlink(missing_ok=True)  # no moment shows new answers beside an old report
        write_jsonl(predictions_path, _predictions(held_out, measured))
        write_json(report_path, report)
        print_report(report)
        say(f"report: {report_path}; every answer: {predictions_path}")
        pages.write(run_dir)
        if not artefacts:
            say(f"next: invoke export --run {run_dir.run_id} --merge")
    return report


def _check(metrics: Sequence[Metric], held_out: HeldOut) -> None:
    """What the rows have to do with the metrics, before anything is loaded."""
    for metric in metrics:
        if isinstance(metric, ChoiceMetric):
            choices_of(metric, held_out)
    unused = unused_tags(metrics, held_out.tags)
    if unused:
        names = ", ".join(safe(tag, 40) for tag in unused[:5])
        warn(f"no row of {held_out.split} has the tag {names}: its metrics in evaluation.metrics_by_tag say nothing")


def _measure_trained(
    config: RunConfig,
    run_dir: RunDir,
    base: ModelDir,
    held_out: HeldOut,
    metrics: Sequence[Metric],
    suite: forgetting.Asked | None,
) -> tuple[dict[str, Measured], Suite | None]:
    """Base and adapter: one set of weights, the adapter switched on and off."""
    model = load_adapter(load_base_model(base, config), run_dir.adapter)
    subject = TorchSubject(model, held_out.encoder, config)
    adapter = measure("adapter", subject, held_out, metrics)
    with model.disable_adapter():
        bare = measure("base", subject, held_out, metrics)
    found = forgetting.run(suite, model, base, held_out.encoder.template.source, config) if suite else None
    del model
    subject.close()
    return {"base": bare, "adapter": adapter}, found


def _suite_of_before(report: Path, outcome: Outcome) -> Suite | None:
    """What the tasks found when this adapter was measured before: they take long, and nothing in them has changed."""
    try:
        before = read_record(report, EvalReport, "invoke evaluate")
    except ArtifactError:
        return None
    return before.suite if before.adapter_files == outcome.adapter else None


def _predictions(held_out: HeldOut, measured: Mapping[str, Measured]) -> Iterator[Prediction]:
    for i, row in enumerate(held_out.rows):
        answers = {
            name: Answer(
                answer=one.answers[i],
                nll=one.scores[i].nll,
                tokens=one.scores[i].tokens,
                metrics={metric: values[i] for metric, values in one.values.items()},
                choice=one.choices[i],
            )
            for name, one in measured.items()
        }
        yield Prediction(
            id=row.id,
            tags=list(row.meta.tags),
            messages=[{"role": m.role, "content": m.content} for m in row.messages[:-1]],
            reference=held_out.reference(i),
            base=answers.pop("base"),
            adapter=answers.pop("adapter"),
            artefacts=answers,
        )
