"""All that training will do, once, on the longest rows, before the first step: what fails, fails at once."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from accelerate.utils import send_to_device

from solotune.artifacts.checkpoints import TRAINER_STATE
from solotune.artifacts.files import fsync_file, record_files, staged_name
from solotune.artifacts.run_manifest import Rehearsal
from solotune.console import warn
from solotune.errors import MachineError
from solotune.modeling import card, gpu_peak
from solotune.modeling.chat import IGNORE, ChatEncoder
from solotune.modeling.generate import generate
from solotune.modeling.likelihood import fullest_passes
from solotune.modeling.lora import save_adapter
from solotune.modeling.trainer import AdapterTrainer, lengths_of
from solotune.modeling.training_state import generators, save_state, set_generators


class StepDoesntFit(Exception):
    """A training step took more memory than it may; another layout may take less."""


def rehearse(trainer: AdapterTrainer, encoder: ChatEncoder, allowed_bytes: float) -> Rehearsal:
    """A step, an evaluation, an answer and a save; adapter, generators and counters are as before when it returns.

    Args:
        trainer: before its first step.
        encoder: of the run.
        allowed_bytes: that torch may take of the GPU.

    Raises:
        StepDoesntFit: the step doesn't.
        MachineError: evaluation or answer don't, with the setting that makes them smaller.
    """
    start = time.monotonic()
    on_gpu = trainer.config.device == "cuda"
    if on_gpu:
        gpu_peak.reset()
    with _as_it_was(trainer):
        optimizer = _step_in_memory(trainer)
        _evaluate(trainer)
        _answer(trainer, encoder)
        checkpoint_bytes, checkpoint_seconds = _save(trainer, optimizer)
        del optimizer
        peak = gpu_peak.peak_bytes() if on_gpu else None
        reserved = gpu_peak.reserved_bytes() if on_gpu else None
    return Rehearsal(
        peak_bytes=peak,
        reserved_bytes=reserved,
        allowed_bytes=int(allowed_bytes) if on_gpu else None,
        checkpoint_bytes=checkpoint_bytes,
        checkpoint_seconds=round(checkpoint_seconds, 2),
        seconds=round(time.monotonic() - start, 1),
    )


def _step_in_memory(trainer: AdapterTrainer) -> Any:
    """The step, without a recording where it fits only so; returns the optimiser."""
    for _ in range(2):
        try:
            return _step(trainer)
        except RuntimeError as error:
            if not card.is_lack_of_memory(error):
                raise
            trainer.model.zero_grad()
            trainer.optimizer = None
        if not (trainer.step and trainer.step.launch()):
            break
        warn("the step fits only without a recording of its launches: slower, to the same bits")
    raise StepDoesntFit


def _step(trainer: AdapterTrainer) -> Any:
    """Forward and backward twice, the second time beside the optimiser's moments; returns the optimiser."""
    numbers = trainer.sequences.longest_first()[: trainer.layout.sequences]
    optimizer = trainer.create_optimizer()
    collated = trainer.data_collator([trainer.sequences[i] for i in numbers])
    trainer.model.train()
    for _ in range(2):
        batch = send_to_device(dict(collated), trainer.args.device)
        labelled = (batch["labels"] != IGNORE).sum()
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=labelled)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.config.training.max_grad_norm)
        optimizer.step()
    trainer.model.zero_grad()
    return optimizer


def _evaluate(trainer: AdapterTrainer) -> None:
    if not trainer.val_rows:
        return
    with _or_else("an evaluation", "training.max_length holds the longest row; lower it, or drop longer rows of val"):
        for rows in fullest_passes(trainer.val_rows, trainer.config):
            trainer.score(rows)


def _answer(trainer: AdapterTrainer, encoder: ChatEncoder) -> None:
    """As many prompts as `evaluate` answers at once, or fit, as long as prompt and answer can get; two tokens more."""
    evaluation = trainer.config.evaluation
    if not (evaluation.metrics or evaluation.metrics_by_tag):
        return
    rows = trainer.val_rows or trainer.rows
    lengths = lengths_of(rows)
    longest = rows[lengths.index(max(lengths))].input_ids
    reach = getattr(trainer.model.config, "max_position_embeddings", None) or math.inf
    prompt = [*islice(cycle(longest), int(min(len(longest) + evaluation.max_new_tokens, max(reach - 2, 1))))]
    at_once = evaluation.batch_size if trainer.config.device == "cuda" else 1  # memory isn't short there, time is
    smaller = trainer.config.model_copy(update={"evaluation": evaluation.model_copy(update={"max_new_tokens": 2})})
    fix = f"Lower evaluation.max_new_tokens ({evaluation.max_new_tokens}), or leave out the longest rows of val"
    with _or_else("answering", fix), trainer.plain():
        generate(trainer.model, [prompt] * at_once, encoder, smaller)


def _save(trainer: AdapterTrainer, optimizer: Any) -> tuple[int, float]:
    """Writes a checkpoint beside the real ones and deletes it; its size in bytes, and seconds."""
    start = time.monotonic()
    folder = staged_name(trainer.run.path / "rehearsal")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with trainer.trouble_in_one_line("no step was made"):
            save_adapter(trainer.model, folder, trainer.config.model)
            save_state(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0), folder)
            trainer.state.save_to_json(str(folder / TRAINER_STATE))
            files = record_files(folder)
            for name in files:
                fsync_file(folder / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sum(record.bytes for record in files.values()), time.monotonic() - start


@contextmanager
def _or_else(what: str, fix: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not card.is_lack_of_memory(error):
            raise
        raise MachineError(f"{what} on the longest rows doesn't fit into the GPU's memory", fix) from error


@contextmanager
def _as_it_was(trainer: AdapterTrainer) -> Iterator[None]:
    """Puts adapter, generators, counters and optimiser back, whatever happens."""
    # On the CPU: a copy beside would be in the peak.
    weights = {n: p.detach().to("cpu", copy=True) for n, p in trainer.model.named_parameters() if p.requires_grad}
    state = generators()
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
                    parameter.grad = None
        trainer.optimizer = None
        if trainer.step:
            trainer.step.off()  # what it recorded would outlive a trainer that is given up for a smaller step
        trainer.take_counts()
        trainer.guard.forget()
        set_generators(state)
        if trainer.config.device == "cuda":
            torch.cuda.empty_cache()
            gpu_peak.reset()  # training's own peak is told at its end
