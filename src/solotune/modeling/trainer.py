"""TRL's SFTTrainer, with our rows, our evaluation loss, our checkpoints and our log."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from solotune.artifacts.checkpoints import TRAINER_STATE, Checkpoints, Origin
from solotune.artifacts.disk import refuse_without_room, trouble_in_one_line
from solotune.artifacts.files import fsync_file, sha256_file
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Layout
from solotune.config.schema import RunConfig
from solotune.console import Progress, counted, warn
from solotune.modeling import likelihood
from solotune.modeling.ahead import BatchesAhead, set_modes_once
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.guard import FiniteGuard
from solotune.modeling.lora import check_targets, keep_float32, peft_config, save_adapter
from solotune.modeling.packing import Sequences, collate, collate_fixed, pack
from solotune.modeling.reporting import PROJECT
from solotune.modeling.step import FixedStep
from solotune.modeling.tokenised import TokenisedRows
from solotune.modeling.training_state import load_generators, load_optimizer_and_scheduler, save_state


class AdapterTrainer(trl.SFTTrainer):
    """Trains an adapter on encoded rows.

    What differs from upstream: sequences and labels come ready; the evaluation loss is exact (upstream's moves with the
    batch size: `transformers/trainer.py`, `evaluation_loop`); a checkpoint appears whole or not at all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        base: ModelDir,
        config: RunConfig,
        run: RunDir,
        train_rows: Sequence[Encoded],
        val_rows: Sequence[Encoded],
        pad_id: int,
        layout: Layout,
    ) -> None:
        self.config = config
        self.layout = layout
        self.run = run
        self.checkpoints = Checkpoints(run.checkpoints)
        self.val_rows = val_rows
        self.go_on = f"`invoke train --resume {run.run_id}`"
        """The command that goes on with the run, for messages."""
        self.measured_checkpoint_bytes = 0
        """Of the one that the rehearsal wrote."""
        self.is_stopping: Callable[[], bool] = lambda: False
        """Whether a signal asked for the end: an evaluation is then broken off, for the save to come in time."""
        # Real tokens and labelled ones since the last take; on the device, so that no step waits for a count.
        self._counts = torch.zeros(2, dtype=torch.int64, device=model.device)
        sequences = make_sequences(train_rows, config)
        evaluates = bool(config.training.eval_steps and val_rows)
        check_targets(model, config.lora)
        super().__init__(
            model=model,
            args=sft_config(config, layout, run, evaluates=evaluates),
            # Upstream takes its own kind of data set only, which would hold everything once more: it gets a sample.
            train_dataset=datasets.Dataset.from_list([sequences[0]]),
            # Upstream wants one to evaluate at all; evaluate() below reads val_rows.
            eval_dataset=datasets.Dataset.from_list([sequences[0]]) if evaluates else None,
            processing_class=AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False),
            data_collator=_collator(sequences, config, layout, pad_id),
            peft_config=peft_config(config.lora, config.model),
        )
        self.rows, self.sequences = train_rows, sequences
        self.train_dataset = sequences
        keep_float32(self.model)
        # On a processor there is nothing to launch, and compiling would ask for a compiler.
        compiled = config.device == "cuda"
        self.step = (
            FixedStep(self.model, recomputed=layout.recomputed, compiled=compiled, replayed=compiled)
            if layout.fixed_shape
            else None
        )
        for upstream in (ProgressCallback, PrinterCallback):
            self.remove_callback(upstream)
        set_modes_once(self.model)
        batches = self.accelerator.gradient_state
        self._ahead = BatchesAhead(self.args.device, lambda: bool(batches.end_of_dataloader))
        self.guard = FiniteGuard(self.accelerator)
        self.add_callback(self._ahead)  # before the guard, which waits for the GPU
        self.add_callback(self.guard)
        if evaluates:
            self.add_callback(_MakeUpEvaluation(self))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float | None]:
        """The exact loss on val, in nats a token; logged as `eval_loss`. Empty when a signal broke it off.

        None where it isn't finite: the lines of val.jsonl that it came from are told.
        """
        del args, kwargs
        try:
            with Progress("evaluating on val", len(self.val_rows), "rows") as bar:
                scores = self.score(self.val_rows, partial(self._go_on, bar))
        except _BrokenOff:
            control: TrainerControl = self.control  # type: ignore[has-type]
            control.should_evaluate = False
            control.should_save = control.should_training_stop = True
            return {}
        # None, where it is no number: JSON has no other word for it, and the training goes on.
        loss = likelihood.loss(scores)
        self._warn_not_finite(scores)
        metrics = {
            "eval_loss": loss if math.isfinite(loss) else None,
            "eval_tokens": float(sum(s.tokens for s in scores)),
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[has-type]
        return metrics

    def get_train_dataloader(self) -> Any:
        """Upstream's, with batches on the processor."""
        loader = super().get_train_dataloader()
        loader.device = None
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Upstream's, of batches that are there already."""
        return super().get_batch_samples(self._ahead.of(epoch_iterator, num_batches), num_batches, device)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Upstream's: negative log-likelihood over the labelled tokens of the whole accumulated batch."""
        labelled = (inputs["labels"] != IGNORE).sum()
        self._counts += torch.stack([inputs.pop("real_tokens"), labelled])
        rows = inputs.pop("rows")
        if self.step:
            loss = self.step.loss(inputs, kwargs["num_items_in_batch"])
        elif self.config.device == "cpu":
            loss = _loss_on_cpu(model, inputs, kwargs.get("num_items_in_batch"))
        else:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.guard.saw(loss[0] if isinstance(loss, tuple) else loss, rows)
        return loss

    def score(
        self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = lambda _: None
    ) -> list[likelihood.RowScore]:
        """Scores rows with the adapter as it is."""
        with self.plain():
            return likelihood.score(self.model, rows, self.config, on_rows)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """The model as upstream made it, for batches of any shape."""
        if self.step:
            self.step.off()
        yield

    def _warn_not_finite(self, scores: Sequence[likelihood.RowScore]) -> None:
        of_file = self.val_rows.rows if isinstance(self.val_rows, TokenisedRows) else range(len(scores))
        lines = [str(of_file[i] + 1) for i, score in enumerate(scores) if not math.isfinite(score.nll)]
        if lines:
            warn(
                f"step {self.state.global_step}: the loss on val isn't a number; it comes from "
                f"{counted(len(lines), 'row')}: line {', '.join(lines[:5])} of val.jsonl"
            )

    def _go_on(self, bar: Progress, rows: int) -> None:
        if self.is_stopping():
            raise _BrokenOff
        bar.advance(rows)

    def take_counts(self) -> tuple[int, int]:
        """Tokens that went through the model since the last call, padding apart, and those that had a label."""
        tokens, trained = self._counts.tolist()
        self._counts.zero_()
        return tokens, trained

    def take_up(self, checkpoint: Path) -> None:
        """Loads a checkpoint after the last step: adapter and state, nothing to go on with."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE))

    @property
    def was_evaluated(self) -> bool:
        """Whether the log has an evaluation of the step that training has come to."""
        history = self.state.log_history
        return any("eval_loss" in line and line["step"] == self.state.global_step for line in history)

    @property
    def adapter_bytes(self) -> int:
        """Of the adapter's file: its weights, in float32."""
        return 4 * sum(int(p.numel()) for p in self.model.parameters() if p.requires_grad)

    @property
    def checkpoint_bytes(self) -> int:
        """Of a checkpoint, rounded up: adapter, two moments of Adam for each weight, generators, state, history."""
        # 8-bit moments have a scale for each 256 values, and each tensor a table of both kinds.
        moment = 1 + 4 / 256 if "8bit" in self.config.training.optim else 4
        history: int = 512 * max(self.state.max_steps, self.config.training.max_steps, 0)
        tensors: int = sum(p.requires_grad for p in self.model.parameters())
        moments = int(self.adapter_bytes / 4 * 2 * moment) + tensors * 2 * 1024
        return max(self.adapter_bytes + moments + 2**20, self.measured_checkpoint_bytes) + history

    def trouble_in_one_line(self, lost: str) -> AbstractContextManager[None]:
        """For a save: what the disk raises, in one line with what to do."""
        return trouble_in_one_line(self.run.path, lost, self._how_to_go_on, needed=self.checkpoint_bytes)

    def _how_to_go_on(self) -> str:
        saved = self.checkpoints.steps()
        whole = f"; the checkpoint of step {saved[-1]} is whole" if saved else ""
        return f"See to it, then {self.go_on}{whole}"

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        del model, trial
        step = self.state.global_step
        lost = f"step {step} isn't saved"
        with self.trouble_in_one_line(lost):
            refuse_without_room(
                self.run.path, self.checkpoint_bytes, f"the checkpoint of step {step}", self._how_to_go_on()
            )
            if self.run.metrics.exists():
                fsync_file(self.run.metrics)  # the log is no shorter than the checkpoint, whatever happens next
            origin = Origin(sha256_file(self.run.config), self.sequences.order_sha256)
            with self.checkpoints.saving(step, origin) as folder:
                save_adapter(self.model, folder, self.config.model)
                save_state(self.optimizer, self.lr_scheduler, folder)
                self.state.save_to_json(str(folder / TRAINER_STATE))
        with self.trouble_in_one_line(f"older checkpoints than step {step}'s weren't deleted"):
            self.checkpoints.keep_newest(self.config.training.save_total_limit)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer_and_scheduler(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_generators(Path(checkpoint))


class _BrokenOff(Exception):
    """A signal came during an evaluation."""


class _MakeUpEvaluation(TrainerCallback):
    """Evaluates at a resume where the checkpoint was saved before its step's evaluation was done."""

    def __init__(self, trainer: AdapterTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step and state.global_step % int(args.eval_steps) == 0 and not self._trainer.was_evaluated:
            self._trainer.evaluate()


def _collator(sequences: Sequences, config: RunConfig, layout: Layout, pad_id: int) -> Callable[[Any], dict[str, Any]]:
    if not layout.fixed_shape:
        return partial(collate, pad_id=pad_id)
    tokens = layout.sequences * config.training.max_length
    return partial(collate_fixed, tokens=tokens, most_rows=sequences.most_rows(layout.sequences), pad_id=pad_id)


def _loss_on_cpu(model: torch.nn.Module, inputs: dict[str, torch.Tensor], num_items: Any) -> torch.Tensor:
    """What upstream's fused output head computes, on the labelled positions alone.

    Upstream skips the others on a GPU only (`trl/trainer/utils.py`, `_fused_forward`); on a CPU a small model spends a
    third of its step in the head.
    """
    targets = inputs["labels"][:, 1:]
    at = (targets != IGNORE).any(dim=0).nonzero().squeeze(1)
    logits = model(
        input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False, logits_to_keep=at
    ).logits
    nll = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets[:, at].flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return nll / (num_items if num_items is not None else (targets != IGNORE).sum())


def make_sequences(rows: Sequence[Encoded], config: RunConfig) -> Sequences:
    """Rows as the sequences that are trained on: packed, or one each; every row is in exactly one."""
    if not config.training.packing:
        return Sequences(rows, [[i] for i in range(len(rows))])
    return Sequences(rows, pack(lengths_of(rows), config.training.max_length, config.seed))


def lengths_of(rows: Sequence[Encoded]) -> list[int]:
    """Tokens of each row; a view knows them without looking at the rows."""
    if isinstance(rows, TokenisedRows):
        return [int(length) for length in rows.lengths]
    return [len(row.input_ids) for row in rows]


def steps_in_all(sequences: int, config: RunConfig) -> int:
    """Optimiser steps that upstream makes (`transformers/trainer.py`, `set_initial_training_values`)."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps
    # Rounded up twice, by forward passes and by steps, it is the same for every layout of the effective batch.
    batches = math.ceil(sequences / training.per_device_train_batch_size)
    return math.ceil(training.num_train_epochs * max(1, math.ceil(batches / training.gradient_accumulation_steps)))


def sft_config(config: RunConfig, layout: Layout, run: RunDir, *, evaluates: bool) -> trl.SFTConfig:
    """The training section as upstream's arguments, and what is fixed for every run."""
    training = config.training
    ours = {"packing", "save_total_limit", "eval_steps", "activation_checkpointing", "report_to"}
    chosen: dict[str, Any] = training.model_dump(exclude=ours)
    known = {field.name for field in dataclasses.fields(trl.SFTConfig)}
    # Older transformers have the old name only, newer ones warn about it.
    renamed = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    chosen[renamed] = bool(layout.recomputed) and not layout.fixed_shape
    chosen["per_device_train_batch_size"] = layout.sequences
    chosen["gradient_accumulation_steps"] = layout.accumulation
    return trl.SFTConfig(
        **chosen,
        output_dir=str(run.checkpoints),
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.model.dtype == "bfloat16",
        use_cpu=config.device == "cpu",
        packing=False,  # rows arrive packed
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,  # position_ids tell rows apart
        eval_strategy="steps" if evaluates else "no",
        eval_steps=training.eval_steps if evaluates else None,
        save_strategy="steps",
        logging_nan_inf_filter=False,  # upstream's default hides a loss that isn't a number
        dataloader_pin_memory=False,  # WSL2 pins little memory, and fails beyond (microsoft/WSL#8447)
        report_to=[],  # modeling/reporting.py hands on what is logged
        run_name=run.run_id,
        project=PROJECT,
        disable_tqdm=True,
    )
