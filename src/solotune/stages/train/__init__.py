"""train: splits and base model -> runs/<run_id>/adapter/."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from solotune import environment, report
from solotune.artifacts.checkpoints import Checkpoints, Origin
from solotune.artifacts.disk import trouble_in_one_line
from solotune.artifacts.files import (
    atomic_folder,
    discard,
    record_files,
    remove_staged,
    sha256_text,
    write_json,
    write_jsonl,
    write_text,
)
from solotune.artifacts.lock import held
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import SCHEMA_VERSION, Outcome, RunManifest
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config import precision
from solotune.config.load import load, resolved_yaml
from solotune.config.schema import RunConfig
from solotune.console import counted, say, stage, warn
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, ConfigError, Interrupted, ModelError, SolotuneError
from solotune.modeling import determinism, reporting
from solotune.modeling.callbacks import MetricsLog, StopAfter, StopOnSignal
from solotune.modeling.fingerprint import Fingerprints
from solotune.modeling.guard import NotFinite
from solotune.modeling.lora import add_tokenizer, save_adapter
from solotune.modeling.trainer import AdapterTrainer, steps_in_all
from solotune.stages.train.inputs import Inputs, read_inputs, refuse_other_inputs, some
from solotune.stages.train.ready import make_ready

RUNS = Path("runs")


@dataclass(frozen=True)
class Trial:
    """A part of a run, made to be compared: `verify` asks for it. It leaves fingerprints.jsonl."""

    root: Path
    """Where its run folder is, instead of runs/."""
    until: int
    """The step after which it saves and ends."""


def run(config: RunConfig, run_id: str | None = None, trial: Trial | None = None, like: str | None = None) -> RunDir:
    """Trains an adapter from the beginning.

    Args:
        run_id: its id; a new one, if not given.
        trial: train a part only, elsewhere.
        like: a run whose layout and number of threads are taken, instead of what is fastest here.

    Raises:
        ArtifactError, DataError, ModelError: before anything is loaded or written, when the inputs don't fit.
        Interrupted: a signal stopped it; the run can be resumed.
    """
    with stage("train"), ExitStack() as locks:
        model = RunDir.find(RUNS, like).manifest() if like else None
        determinism.start(config, model.environment.get("threads") if model else None)
        reporting.require(() if trial or like else config.training.report_to)
        with held(Path(config.dataset.splits_dir), "train", shared=True):
            inputs = read_inputs(config)
        run_dir = RunDir.new(trial.root if trial else RUNS, config.name, run_id)
        manifest = _manifest(config, run_dir, text := resolved_yaml(config), inputs)
        if model:
            manifest = msgspec.structs.replace(manifest, layout=model.layout)
        with run_dir.beginning() as staged:
            write_text(staged.config, text)
            if inputs.overflow:
                write_jsonl(staged.overflow, inputs.overflow)
            staged.write_manifest(manifest)
        locks.enter_context(_ways_on(go_on := _go_on(run_dir, trial)))
        locks.enter_context(held(run_dir.path, f"train (run {run_dir.run_id})"))
        say(f"run {run_dir.run_id}")
        if not (trial or like) and (keys := precision.slow_here(config)):
            warn(f"{precision.SLOW}; {' and '.join(f'`{key}: auto`' for key in keys)} takes what is fast here")
        _train(config, run_dir, manifest, inputs, None, trial, go_on)
    return run_dir


def resume(wanted: str, config: RunConfig | None = None, trial: Trial | None = None) -> RunDir:
    """Goes on with an unfinished run from its newest whole checkpoint.

    Args:
        wanted: run id, unique prefix, or `latest`.
        config: if given, it must equal the run's own.
        trial: the run is a trial, and goes on as one.

    Raises:
        ConfigError: `config` differs from the run's.
        ArtifactError: the run is finished, or its inputs have changed since.
    """
    with stage("train"), ExitStack() as locks:
        run_dir = RunDir.find(trial.root if trial else RUNS, wanted)
        locks.enter_context(held(run_dir.path, f"train --resume {run_dir.run_id}"))
        locks.enter_context(_ways_on(go_on := _go_on(run_dir, trial)))
        manifest = run_dir.manifest()
        own = load(run_dir.config_of(manifest))
        if config is not None:
            _refuse_other_config(run_dir, own, config)
        if manifest.outcome is not None:
            raise ArtifactError(
                f"run {run_dir.run_id} has finished",
                f"Measure it with `invoke evaluate --run {run_dir.run_id}`",
            )
        determinism.start(own, manifest.environment.get("threads"))
        with held(Path(own.dataset.splits_dir), f"train --resume {run_dir.run_id}", shared=True):
            inputs = read_inputs(own)
        refuse_other_inputs(run_dir, manifest, own, inputs)
        differing = environment.differences(manifest.environment, _environment())
        for what in differing:
            warn(f"not as it was when the run began, so the adapter may be another than without a stop: {what}")
        origin = Origin(manifest.config_sha256, inputs.order_sha256)
        checkpoint, broken = Checkpoints(run_dir.checkpoints).newest_whole(origin)
        for what in broken:
            warn(f"checkpoint set aside: {what}")
        step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        why = "" if checkpoint else ": none of its checkpoints is whole" if broken else ": it has no checkpoint yet"
        say(f"run {run_dir.run_id} goes on from step {step}{why}")
        if not trial and precision.slow_here(own):
            warn(f"{precision.SLOW}; a run keeps the type that it began with")
        remove_staged(run_dir.path)
        note = {"at": _utc(), "from_step": step, "set_aside": broken, "differed": differing}
        manifest = msgspec.structs.replace(manifest, resumes=[*manifest.resumes, note])
        run_dir.write_manifest(manifest)
        _train(own, run_dir, manifest, inputs, checkpoint, trial, go_on)
    return run_dir


def _go_on(run_dir: RunDir, trial: Trial | None) -> str:
    """The command that goes on with the run, for messages."""
    return f"`invoke {'verify --run' if trial else 'train --resume'} {run_dir.run_id}`"


@contextmanager
def _ways_on(go_on: str) -> Iterator[None]:
    """A stop at any moment from a run's beginning to its end says how to go on with that run."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as stop:
        if "go on with" in str(stop) or go_on in str(stop):
            raise
        raise Interrupted(
            f"stopped; go on with {go_on}", stop.exit_code if isinstance(stop, Interrupted) else 130
        ) from None


def _manifest(config: RunConfig, run_dir: RunDir, config_yaml: str, inputs: Inputs) -> RunManifest:
    return RunManifest(
        schema_version=SCHEMA_VERSION,
        run_id=run_dir.run_id,
        created=_utc(),
        config_sha256=sha256_text(config_yaml),
        seed=config.seed,
        determinism=config.determinism,
        splits_dir=config.dataset.splits_dir,
        splits=inputs.split_files,
        base_model=inputs.base_files,
        base_model_dir=inputs.base.path.as_posix(),
        environment=_environment(),
        template_sha256=inputs.encoder.template.sha256,
        data=inputs.facts,
        order_sha256=inputs.order_sha256,
        not_covered=determinism.not_covered(config),
    )


def _environment() -> dict[str, Any]:
    # torch chooses its kernels by what the processor can, unless ATEN_CPU_CAPABILITY says otherwise.
    capability = torch.backends.cpu.get_cpu_capability()
    return {**environment.describe(Path()), "threads": torch.get_num_threads(), "cpu_capability": capability}


def _train(
    config: RunConfig,
    run_dir: RunDir,
    manifest: RunManifest,
    inputs: Inputs,
    checkpoint: Path | None,
    trial: Trial | None,
    go_on: str,
) -> None:
    steps = steps_in_all(inputs.sequences, config)
    facts = inputs.facts["train"]
    say(
        f"{counted(facts.rows, 'row')}, {facts.tokens:,} tokens ({facts.trained_tokens:,} trained) in "
        f"{counted(inputs.sequences, 'sequence')} of up to {config.training.max_length}; {counted(steps, 'step')}"
    )
    trainer, manifest = make_ready(config, run_dir, manifest, inputs, go_on)
    resumed_at = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    trainer.checkpoints.drop_after(resumed_at)
    stop = StopOnSignal(f"what was saved is whole: {go_on}")
    trainer.is_stopping = lambda: stop.received is not None
    trainer.add_callback(stop)
    if trial:
        trainer.add_callback(StopAfter(trial.until))
        trainer.add_callback(Fingerprints(run_dir.fingerprints, trainer.guard.last_step))
    else:
        trainer.add_callback(reporting.Reporting(config.training.report_to, run_dir))
    with trouble_in_one_line(run_dir.path, "training stopped", lambda: f"See to it, then {go_on}"), stop:
        log = MetricsLog(run_dir.metrics, trainer.take_counts, resumed_at)
        trainer.add_callback(log)  # after those that decide on a save
        try:
            if resumed_at < steps:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            elif checkpoint:
                # Everything was trained; upstream would look at the limit after one step more.
                trainer.take_up(checkpoint)
            done = trainer.state.global_step >= trainer.state.max_steps
            if done and trainer.val_rows and not trainer.was_evaluated and stop.received is None:
                trainer.evaluate()
        except NotFinite as stopped:
            raise _not_finite(stopped, config, run_dir, manifest, trial) from stopped
        finally:
            log.close()
        if stop.received is not None and not (done and (trainer.was_evaluated or not trainer.val_rows)):
            at = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
            raise Interrupted(f"stopped and saved at {at}; go on with {go_on}", 128 + stop.received)
        if trial and not done:
            return
        _finish(config, run_dir, manifest, inputs, trainer, log)  # what is left takes a moment: it isn't broken off
    if not trial:
        with _ways_on(f"`invoke evaluate --run {run_dir.run_id}`; the adapter is whole"):
            report.write(run_dir)
        say(f"next: invoke evaluate --run {run_dir.run_id}")


def _not_finite(
    stopped: NotFinite, config: RunConfig, run_dir: RunDir, manifest: RunManifest, trial: Trial | None
) -> ModelError:
    """The error for a step whose loss or gradient isn't a number; its rows are listed in the run's folder."""
    ids = _ids(stopped.rows, config, manifest)
    figures = {"step": stopped.step, "loss": str(stopped.loss), "grad_norm": str(stopped.grad_norm), "rows": ids}
    all_of_them = "" if trial else f" (all in {run_dir.not_finite})"  # a trial's folder is gone when this is read
    try:
        write_json(run_dir.not_finite, figures)
    except OSError:  # what stopped the training is said also on a full disk
        all_of_them = ""
    saved = Checkpoints(run_dir.checkpoints).steps()
    return ModelError(
        f"step {stopped.step}: the loss is {stopped.loss}, the gradient's norm {stopped.grad_norm}; in it were "
        f"{len(ids)} rows: {some(ids)}{all_of_them}. "
        + (f"The checkpoint of step {saved[-1]} is from before" if saved else "No checkpoint was saved before"),
        "Look at those rows with `invoke prepare --config CONFIG --show ID`, or start a new run with a lower "
        "training.learning_rate; the same run would come to the same step",
    )


def _ids(numbers: Sequence[int], config: RunConfig, manifest: RunManifest) -> list[str]:
    """Ids of rows of train; their line numbers where the splits aren't what the run began with any more."""
    splits, wanted = SplitsDir(Path(config.dataset.splits_dir)), set(numbers)
    try:
        with held(splits.path, "train", shared=True):
            if splits.open(config.dataset).outputs == manifest.splits:
                return [row.id for number, row in enumerate(read_rows(splits.split("train"))) if number in wanted]
    except SolotuneError as error:
        warn(f"the ids of the rows can't be read: {error.what}")
    return [f"line {number + 1} of train.jsonl" for number in sorted(wanted)]


def _finish(
    config: RunConfig,
    run_dir: RunDir,
    manifest: RunManifest,
    inputs: Inputs,
    trainer: AdapterTrainer,
    log: MetricsLog,
) -> None:
    remove_staged(run_dir.path)
    remove_staged(run_dir.checkpoints)
    discard(run_dir.adapter)  # from a process that was killed before it could say so
    run_dir.not_finite.unlink(missing_ok=True)  # of a step that a resume got past
    with atomic_folder(run_dir.adapter) as folder:
        save_adapter(trainer.model, folder, config.model)
        add_tokenizer(folder, inputs.base, inputs.encoder)
    outcome = Outcome(
        steps=trainer.state.global_step,
        epochs=float(trainer.state.epoch or 0),
        tokens=log.tokens,
        trained_tokens=log.trained_tokens,
        seconds=round(log.seconds, 1),
        train_loss=log.last_loss,
        eval_loss=log.last_eval_loss,
        peak_vram_bytes=log.peak_vram_bytes,
        adapter=record_files(run_dir.adapter),
    )
    run_dir.write_manifest(msgspec.structs.replace(manifest, outcome=outcome))
    rate = outcome.tokens / max(outcome.seconds, 1e-9)
    say(
        f"{counted(outcome.steps, 'step')}, {outcome.tokens:,} tokens, {rate:,.0f} tokens/s; "
        f"train loss {log.last_loss or 0:.4f}"
    )
    if log.last_eval_loss is not None:
        say(f"val loss {log.last_eval_loss:.4f}")
    say(f"adapter: {run_dir.adapter}")


def _refuse_other_config(run_dir: RunDir, own: RunConfig, given: RunConfig) -> None:
    ours, theirs = _flat(own.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differing:
        raise ConfigError(
            [
                f"{k}: run {run_dir.run_id} has {ours.get(k)!r}, the config given says {theirs.get(k)!r}"
                for k in differing
            ]
            + ["A resume keeps the run's own config, with every `auto` settled: leave --config out, or start anew"]
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{path}.{key}".strip(".")).items()}


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
