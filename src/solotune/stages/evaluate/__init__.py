"""evaluate: base, adapter and what was exported on the same held-out rows -> eval_report.json, predictions.jsonl."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from solotune.artifacts.lock import held
from solotune.artifacts.measured import EvalReport
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.config.load import load
from solotune.config.schema import RunConfig, Split
from solotune.console import complain, counted, safe, say, stage, warn
from solotune.errors import Interrupted
from solotune.harness import suite as forgetting
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Measured, Metric, choices_of, measure
from solotune.metrics import ChoiceMetric, asked, unused_tags
from solotune.modeling import card, determinism
from solotune.modeling.base_model import load_base_model
from solotune.modeling.lora import load_adapter
from solotune.modeling.subject import TorchSubject
from solotune.stages.evaluate.exported import Exported, device_of, opened, to_measure
from solotune.stages.evaluate.printed import print_exports, print_report, print_suite
from solotune.stages.evaluate.written import Writer

RUNS = Path("runs")


def run(
    wanted: str,
    split: Split | None = None,
    suite: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    *,
    exports: bool = True,
) -> EvalReport:
    """Measures a finished run: base and adapter, which is a whole report, then what was exported, one by one.

    Measuring again replaces the report, in which an export's figures stay until it is measured again, as long as they
    are true (`Before.completed`). Another split has files of its own.

    Args:
        wanted: run id, unique prefix, or `latest`.
        split: another split than the config's.
        suite: tasks of lm-evaluation-harness that base and adapter are asked too; empty: those of the config; None:
            no such tasks.
        overrides: `evaluation.key=value` over the run's config.
        exports: measure what was exported.

    Raises:
        ArtifactError: the run isn't finished, or its splits, base model or export have changed since.
        ModelError: a model's loss is no number.
        Interrupted: a stop was asked for. Once base and adapter are measured, a report of what there is stands.
    """
    with stage("evaluate"), ExitStack() as locks:
        start = time.monotonic()
        run_dir = RunDir.find(RUNS, wanted)
        locks.enter_context(held(run_dir.path, command := f"evaluate --run {run_dir.run_id}"))
        run_dir.tidy()
        manifest, outcome = run_dir.finished()
        its_split = load(run_dir.config_of(manifest)).evaluation.split
        config = load(run_dir.config, overrides)
        asked_suite = forgetting.prepare(config.evaluation.suite, suite) if suite is not None else None
        metrics = asked(config.evaluation)
        locks.enter_context(held(Path(config.dataset.splits_dir), command, shared=True))
        base = ModelDir.of(config.model)
        base.open_as_trained(run_dir.run_id, manifest.base_model)
        record = run_dir.exported()
        held_out = HeldOut.of_run(run_dir, manifest, config, split, config.evaluation.max_examples)
        to_come = to_measure(run_dir, record, config, len(held_out)) if exports else {}
        _check(metrics, held_out)
        determinism.start(config)
        card.enforce(config)
        _announce(run_dir, config, held_out, to_come)
        is_own = held_out.split == its_split
        writer = Writer(run_dir, manifest, outcome, held_out, metrics, overrides, record, is_own, start)
        with _report_stands(writer, to_come):
            measured, report = _measure_trained(config, base, writer, asked_suite)
            for name, one in sorted(to_come.items(), key=lambda item: item[0] in report.artefacts_of_before):
                with opened(run_dir, one, held_out.encoder, config) as subject:
                    measured[name] = measure(name, subject, held_out, metrics, one.rows)
                    report = writer.write(measured, report.suite)
        print_exports(report)
        say("report: {}; every answer: {}".format(*writer.paths))
        if record is None:
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


def _announce(run_dir: RunDir, config: RunConfig, held_out: HeldOut, to_come: Mapping[str, Exported]) -> None:
    """What will be measured, and by what: a GGUF of a large model takes hours."""
    say(f"run {run_dir.run_id}: {counted(len(held_out), 'row')} of {held_out.split}")
    parts = [f"base and adapter on {config.device}"]
    for name, one in to_come.items():
        where = "in llama.cpp on the CPU" if one.gguf else f"on {device_of(run_dir, one, config)}"
        parts.append(
            f"{safe(name, 60)} {where}" + (f", {len(one.rows):,} of the rows" if len(one.rows) < len(held_out) else "")
        )
    left_out = "; `--no-exports` measures base and adapter alone" if to_come else ""
    say(f"to be measured: {'; '.join(parts)}{left_out}")


def _measure_trained(
    config: RunConfig, base: ModelDir, writer: Writer, suite: forgetting.Asked | None
) -> tuple[dict[str, Measured], EvalReport]:
    """Base and adapter: one set of weights, the adapter switched on and off. Writes and prints the report of them."""
    held_out, metrics = writer.held_out, writer.metrics
    model = load_adapter(load_base_model(base, config), writer.run_dir.adapter)
    subject = TorchSubject(model, held_out.encoder, config)
    adapter = measure("adapter", subject, held_out, metrics)
    with model.disable_adapter():
        measured = {"base": measure("base", subject, held_out, metrics), "adapter": adapter}
    report = writer.write(measured, writer.before.suite(writer.outcome.adapter), is_suite_missing=suite is not None)
    print_report(report)
    if suite:  # its tasks may take hours, or fail
        report = writer.write(measured, forgetting.run(suite, model, base, held_out, config))
    print_suite(report)
    del model
    subject.close()
    return measured, report


@contextmanager
def _report_stands(writer: Writer, to_come: Collection[str]) -> Iterator[None]:
    """Says what the report doesn't have, once there is one, where the command doesn't come to its end."""
    try:
        yield
    except (Exception, KeyboardInterrupt, Interrupted) as end:
        if writer.standing is None:
            if isinstance(end, KeyboardInterrupt | Interrupted) and writer.paths[0].is_file():
                told = f"{writer.paths[0]} stands as it was; the same command measures all again"
                raise _with(told, end) from None
            raise
        told = _what_stands(writer.standing, writer.is_suite_missing, to_come)
        if isinstance(end, KeyboardInterrupt | Interrupted):
            raise _with(told, end) from None
        complain(told)
        raise


def _with(told: str, stop: KeyboardInterrupt | Interrupted) -> Interrupted:
    if isinstance(stop, Interrupted):
        return Interrupted(f"stopped; {told}", stop.exit_code)
    return Interrupted(f"interrupted; {told}")


def _what_stands(report: EvalReport, is_suite_missing: bool, to_come: Collection[str]) -> str:
    missing = ["what --suite asks"] if is_suite_missing else []
    missing += [safe(name, 60) for name in to_come if name in report.artefacts_missing]
    of_before = [safe(name, 60) for name in to_come if name in report.artefacts_of_before]
    parts = [f"without {', '.join(missing)}"] if missing else []
    parts += [f"with {', '.join(of_before)} as measured before"] if of_before else []
    if not parts:
        return "the report stands, with all that was asked for"
    return f"the report stands {' and '.join(parts)}; the same command measures all again"
