"""train: splits and base model -> runs/<run_id>/adapter/."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from solotune import environment
from solotune.artifacts.checkpoints import Checkpoints
from solotune.artifacts.disk import refuse_without_room
from solotune.artifacts.files import (
    FileRecord,
    atomic_folder,
    record_files,
    remove_staged,
    sha256_text,
    write_json,
    write_jsonl,
)
from solotune.artifacts.lock import held
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import SCHEMA_VERSION, Outcome, OverflowRow, RunDir, RunManifest, SplitFacts
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.load import load, resolved_yaml
from solotune.config.schema import RunConfig, Split
from solotune.console import Progress, duration, safe, say, stage, warn
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, ConfigError, DataError, Interrupted, ModelError
from solotune.modeling import determinism
from solotune.modeling.base_model import load_base_model
from solotune.modeling.callbacks import MetricsLog, StopOnSignal
from solotune.modeling.chat import ChatEncoder, Encoded
from solotune.modeling.guard import NotFinite
from solotune.modeling.length_policy import kept_tokens
from solotune.modeling.lora import add_tokenizer, save_adapter
from solotune.modeling.token_cache import tokenised
from solotune.modeling.tokenised import TokenisedRows
from solotune.modeling.trainer import AdapterTrainer, make_sequences, steps_in_all

RUNS = Path("runs")


@dataclass(frozen=True)
class _Inputs:
    """What training reads, proven to be whole and to fit together."""

    base: ModelDir
    base_files: dict[str, FileRecord]
    split_files: dict[str, FileRecord]
    encoder: ChatEncoder
    train: TokenisedRows
    val: Sequence[Encoded]
    facts: dict[str, SplitFacts]
    overflow: list[OverflowRow]


def run(config: RunConfig, run_id: str | None = None) -> RunDir:
    """Trains an adapter from the beginning.

    Raises:
        ArtifactError, DataError, ModelError: before anything is loaded or written, when the inputs don't fit.
        Interrupted: a signal stopped it; the run can be resumed.
    """
    with stage("train"), ExitStack() as locks:
        determinism.start(config)
        with held(Path(config.dataset.splits_dir), "train", shared=True):
            inputs = _read_inputs(config)
        run_dir = RunDir.create(RUNS, config.name, text := resolved_yaml(config), run_id)
        locks.enter_context(held(run_dir.path, f"train (run {run_dir.run_id})"))
        manifest = _manifest(config, run_dir, text, inputs)
        if inputs.overflow:
            write_jsonl(run_dir.overflow, inputs.overflow)
        run_dir.write_manifest(manifest)
        say(f"run {run_dir.run_id}")
        _train(config, run_dir, manifest, inputs, checkpoint=None)
    return run_dir


def resume(wanted: str, config: RunConfig | None = None) -> RunDir:
    """Goes on with an unfinished run from its newest whole checkpoint.

    Args:
        wanted: run id, unique prefix, or `latest`.
        config: if given, it must equal the run's own.

    Raises:
        ConfigError: `config` differs from the run's.
        ArtifactError: the run is finished, or its inputs have changed since.
    """
    with stage("train"), ExitStack() as locks:
        run_dir = RunDir.find(RUNS, wanted)
        locks.enter_context(held(run_dir.path, f"train --resume {run_dir.run_id}"))
        manifest = run_dir.manifest()
        own = load(run_dir.config_of(manifest))
        if config is not None:
            _refuse_other_config(run_dir, own, config)
        if manifest.outcome is not None:
            raise ArtifactError(
                f"run {run_dir.run_id} has finished",
                f"Measure it with `invoke evaluate --run {run_dir.run_id}`",
            )
        determinism.start(own)
        with held(Path(own.dataset.splits_dir), f"train --resume {run_dir.run_id}", shared=True):
            inputs = _read_inputs(own)
        _refuse_other_inputs(run_dir, manifest, own, inputs)
        checkpoint, broken = Checkpoints(run_dir.checkpoints).newest_whole()
        for what in broken:
            warn(f"checkpoint set aside: {what}")
        step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        say(f"run {run_dir.run_id} goes on from step {step}" + ("" if checkpoint else ": no whole checkpoint yet"))
        note = {"at": _utc(), "from_step": step, "set_aside": broken}
        manifest = msgspec.structs.replace(manifest, resumes=[*manifest.resumes, note])
        run_dir.write_manifest(manifest)
        _train(own, run_dir, manifest, inputs, checkpoint)
    return run_dir


def _read_inputs(config: RunConfig) -> _Inputs:
    splits_dir = SplitsDir(Path(config.dataset.splits_dir))
    splits = splits_dir.open(config.dataset)
    base = ModelDir.of(config.model)
    model = base.open(hashes=True)
    encoder = ChatEncoder.open(base, config.model.chat_template_path)
    train, train_facts, overflow = _encode(splits_dir, splits.rows["train"], "train", encoder, config)
    if not train:
        raise DataError(f"{splits_dir.split('train')} holds no row to train on", "See the table that prepare prints")
    facts = {"train": train_facts}
    val: Sequence[Encoded] = []
    if config.training.eval_steps:
        val, facts["val"], more = _encode(splits_dir, splits.rows["val"], "val", encoder, config)
        overflow += more
    return _Inputs(base, model.files, splits.outputs, encoder, train, val, facts, overflow)


def _encode(
    splits: SplitsDir, rows: int, split: Split, encoder: ChatEncoder, config: RunConfig
) -> tuple[TokenisedRows, SplitFacts, list[OverflowRow]]:
    path = splits.split(split)
    with Progress(f"encoding {split}", rows, "rows") as bar:
        encoded = tokenised(path, lambda: (row.messages for row in read_rows(path)), encoder, bar.advance)
    kept = kept_tokens(encoded, config)
    overflow = list(_overflow(path, split, encoded, kept))
    _tell_overflow(split, encoded, overflow, config)
    fitting = encoded.keep(kept)
    facts = SplitFacts(
        rows=len(fitting),
        rows_too_long=[row.id for row in overflow if row.action == "dropped"],
        tokens=fitting.tokens_in_all,
        trained_tokens=fitting.trained_tokens,
        rows_truncated=[row.id for row in overflow if row.action == "truncated"],
        tokens_lost=sum(row.tokens_lost for row in overflow),
    )
    return fitting, facts, overflow


def _overflow(path: Path, split: Split, encoded: TokenisedRows, kept: dict[int, int]) -> Iterator[OverflowRow]:
    """The ledger of the rows that are too long; only where there are some, the file is read for their ids."""
    if not kept:
        return
    for index, row in enumerate(read_rows(path)):
        if index in kept:
            tokens, left = int(encoded.lengths[index]), kept[index]
            lost = sum(end - max(start, left) for start, end in encoded.spans(index) if end > left)
            action: Literal["dropped", "truncated"] = "truncated" if left else "dropped"
            yield OverflowRow(split, index + 1, row.id, action, tokens, tokens - left, lost)


def _tell_overflow(split: Split, encoded: TokenisedRows, overflow: Sequence[OverflowRow], config: RunConfig) -> None:
    limit = config.training.max_length
    if overflow and config.dataset.on_overflow == "error":
        longest = max(row.tokens for row in overflow)
        raise DataError(
            f"{len(overflow)} rows of {split} are longer than training.max_length ({limit} tokens; the longest has "
            f"{longest}): {_some([row.id for row in overflow])}",
            f"Set training.max_length to {-(-longest // 64) * 64}, or dataset.on_overflow to drop or truncate; "
            "nothing is cut unless you say so",
        )
    for action, words in (("dropped", "left out"), ("truncated", "cut")):
        rows = [row for row in overflow if row.action == action]
        if rows:
            lost = sum(row.tokens_lost for row in rows)
            warn(
                f"{len(rows)} rows of {split} are {words}, longer than {limit} tokens: {_some([r.id for r in rows])} "
                f"({lost:,} of {encoded.tokens_in_all:,} tokens lost; overflow.jsonl lists each)"
            )


def _manifest(config: RunConfig, run_dir: RunDir, config_yaml: str, inputs: _Inputs) -> RunManifest:
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
        environment={**environment.describe(Path()), "threads": torch.get_num_threads()},
        template_sha256=inputs.encoder.template.sha256,
        data=inputs.facts,
    )


def _train(config: RunConfig, run_dir: RunDir, manifest: RunManifest, inputs: _Inputs, checkpoint: Path | None) -> None:
    sequences = len(make_sequences(inputs.train, config))
    steps = steps_in_all(sequences, config)
    facts = inputs.facts["train"]
    say(
        f"{facts.rows:,} rows, {facts.tokens:,} tokens ({facts.trained_tokens:,} trained) in {sequences:,} "
        f"sequences of up to {config.training.max_length}; {steps:,} steps"
    )
    start = time.monotonic()
    model = load_base_model(inputs.base, config)
    say(f"{config.model.name_or_path} loaded in {duration(time.monotonic() - start)}")
    trainer = AdapterTrainer(model, inputs.base, config, run_dir, inputs.train, inputs.val, inputs.encoder.pad_id)
    _refuse_without_room(config, run_dir, trainer)
    resumed_at = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    trainer.checkpoints.drop_after(resumed_at)
    log = MetricsLog(run_dir.metrics, trainer.take_counts, resumed_at)
    trainer.add_callback(log)
    try:
        with StopOnSignal(f"what was saved is whole: `invoke train --resume {run_dir.run_id}`") as stop:
            trainer.add_callback(stop)
            if resumed_at < steps:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            elif checkpoint:
                # Everything was trained; upstream would look at the limit after one step more.
                trainer.take_up(checkpoint)
    except NotFinite as stopped:
        raise _not_finite(stopped, config, run_dir) from stopped
    finally:
        log.close()
    if stop.received is not None and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(
            f"stopped and saved at step {trainer.state.global_step} of {trainer.state.max_steps}; "
            f"go on with `invoke train --resume {run_dir.run_id}`",
            128 + stop.received,
        )
    _finish(config, run_dir, manifest, inputs, trainer, log)


def _refuse_without_room(config: RunConfig, run_dir: RunDir, trainer: AdapterTrainer) -> None:
    # One more than are kept: the oldest goes when the newest is whole.
    coming = max(1, config.training.save_total_limit + 1 - len(trainer.checkpoints.steps()))
    refuse_without_room(
        run_dir.path,
        coming * trainer.checkpoint_bytes + trainer.adapter_bytes,
        f"{coming} checkpoints and the adapter",
        f"Free some space, then `invoke train --resume {run_dir.run_id}`",
    )


def _not_finite(stopped: NotFinite, config: RunConfig, run_dir: RunDir) -> ModelError:
    """The error for a step whose loss or gradient isn't a number; its rows are listed in the run's folder."""
    wanted = set(stopped.rows)
    rows = read_rows(SplitsDir(Path(config.dataset.splits_dir)).split("train"))
    ids = [row.id for number, row in enumerate(rows) if number in wanted]
    figures = {"step": stopped.step, "loss": str(stopped.loss), "grad_norm": str(stopped.grad_norm), "rows": ids}
    write_json(run_dir.not_finite, figures)
    saved = Checkpoints(run_dir.checkpoints).steps()
    return ModelError(
        f"step {stopped.step}: the loss is {stopped.loss}, the gradient's norm {stopped.grad_norm}; in it were "
        f"{len(ids)} rows: {_some(ids)} (all in {run_dir.not_finite}). "
        + (f"The checkpoint of step {saved[-1]} is from before" if saved else "No checkpoint was saved before"),
        "Look at those rows with `invoke prepare --config CONFIG --show ID`, or start a new run with a lower "
        "training.learning_rate; the same run would come to the same step",
    )


def _finish(
    config: RunConfig,
    run_dir: RunDir,
    manifest: RunManifest,
    inputs: _Inputs,
    trainer: AdapterTrainer,
    log: MetricsLog,
) -> None:
    if trainer.val_rows and not _evaluated_last(trainer):
        trainer.evaluate()
    remove_staged(run_dir.path)
    shutil.rmtree(run_dir.adapter, ignore_errors=True)  # from a process that was killed before it could say so
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
        peak_vram_bytes=torch.cuda.max_memory_allocated() if config.device == "cuda" else None,
        adapter=record_files(run_dir.adapter),
    )
    run_dir.write_manifest(msgspec.structs.replace(manifest, outcome=outcome))
    rate = outcome.tokens / max(outcome.seconds, 1e-9)
    say(
        f"{outcome.steps:,} steps, {outcome.tokens:,} tokens, {rate:,.0f} tokens/s; train loss {log.last_loss or 0:.4f}"
    )
    if log.last_eval_loss is not None:
        say(f"val loss {log.last_eval_loss:.4f}")
    say(f"adapter: {run_dir.adapter}")
    say(f"next: invoke evaluate --run {run_dir.run_id}")


def _evaluated_last(trainer: AdapterTrainer) -> bool:
    history = trainer.state.log_history
    return any("eval_loss" in line and line["step"] == trainer.state.global_step for line in history)


def _refuse_other_config(run_dir: RunDir, own: RunConfig, given: RunConfig) -> None:
    ours, theirs = _flat(own.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differing:
        raise ConfigError(
            [
                f"{k}: run {run_dir.run_id} has {ours.get(k)!r}, the config given says {theirs.get(k)!r}"
                for k in differing
            ]
            + ["A resume continues the run's own config: leave --config out, or start a new run with it"]
        )


def _refuse_other_inputs(run_dir: RunDir, manifest: RunManifest, config: RunConfig, inputs: _Inputs) -> None:
    changed = []
    if manifest.splits != inputs.split_files:
        changed.append(f"the splits in {config.dataset.splits_dir}")
    if manifest.base_model != inputs.base_files:
        changed.append(f"the base model in {inputs.base.path}")
    if manifest.template_sha256 != inputs.encoder.template.sha256:
        changed.append("the chat template")
    if changed:
        raise ArtifactError(
            f"run {run_dir.run_id} can't go on: {' and '.join(changed)} changed since it began",
            "Bring them back, or start a new run with `invoke train --config CONFIG`",
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{path}.{key}".strip(".")).items()}


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(safe(i, 40) for i in ids[:5])
    return shown + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
