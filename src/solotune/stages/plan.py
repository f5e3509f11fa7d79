"""plan: will it fit, how many steps, how long; before a weight is loaded."""

from __future__ import annotations

import math
import re
from pathlib import Path

import psutil

from solotune import environment
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig
from solotune.console import duration, say, stage, table
from solotune.dataset.stored import read_rows
from solotune.errors import DataError, MachineError, SolotuneError
from solotune.modeling import determinism, memory
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.length_policy import kept_tokens
from solotune.modeling.token_cache import tokenised
from solotune.modeling.trainer import make_sequences, steps_in_all

RUNS = Path("runs")
_SLACK = 1.5
"""GiB of a card that desktop programs and fragmentation take (Windows keeps 0.5 GiB and more for itself)."""


def run(config: RunConfig, vram: float | None = None) -> None:
    """Prints the plan.

    Args:
        vram: GiB of the card to plan for, instead of the one that is here.

    Raises:
        MachineError: it doesn't fit, with the nearest setting that does; or there is no GPU to plan for.
    """
    with stage("plan"):
        base = ModelDir.of(config.model)
        base.open()
        sequences, tokens = _read(config, base)
        steps = steps_in_all(sequences, config)
        training = config.training
        say(
            f"{sequences:,} sequences of up to {training.max_length} tokens, {steps:,} optimiser steps of "
            f"{training.per_device_train_batch_size * training.gradient_accumulation_steps} sequences"
        )
        share = steps * training.per_device_train_batch_size * training.gradient_accumulation_steps / sequences
        _say_time(config, tokens * share)
        shapes = memory.shapes(base)
        needed = memory.estimate(shapes, config)
        rows = [[part, f"{size / 2**30:.2f}"] for part, size in needed.parts.items()]
        table(["memory of a step, estimated", "GiB"], [*rows, ["in all", f"{needed.total / 2**30:.2f}"]])
        checkpoint = needed.adapter_parameters * 12
        disk = (training.save_total_limit + 1) * checkpoint + needed.adapter_parameters * 8
        say(f"adapter: {needed.adapter_parameters:,} of {needed.base_parameters:,} parameters are trained")
        say(f"disk: {disk / 2**30:.2f} GiB for {training.save_total_limit} checkpoints and two copies of the adapter")
        for what in determinism.not_covered(config) or ["the same machine, config and data give the same adapter"]:
            say(f"determinism: {what.removeprefix('determinism: ')}")
        _check_fit(config, shapes, needed.total, vram)
        say("next: invoke train --config CONFIG")


def _read(config: RunConfig, base: ModelDir) -> tuple[int, int]:
    """Sequences and tokens of an epoch."""
    splits = SplitsDir(Path(config.dataset.splits_dir))
    splits.open(config.dataset)
    encoder = ChatEncoder.open(base, config.model.chat_template_path)
    path = splits.split("train")
    encoded = tokenised(path, lambda: (row.messages for row in read_rows(path)), encoder)
    kept = kept_tokens(encoded, config)
    rows = encoded.keep(kept)
    if kept:
        say(f"{len(kept)} rows are longer than training.max_length ({config.training.max_length})")
        if config.dataset.on_overflow == "error" or not rows:
            raise DataError(
                "train would refuse them",
                "Raise training.max_length, or set dataset.on_overflow to drop or truncate",
            )
    return len(make_sequences(rows, config)), rows.tokens_in_all


def _say_time(config: RunConfig, tokens: float) -> None:
    """A time is told only from a rate that was measured here."""
    for run_id in reversed(run_ids(RUNS)):
        run_dir = RunDir(RUNS / run_id)
        try:
            manifest = run_dir.manifest()
        except SolotuneError:
            continue
        outcome = manifest.outcome
        same = manifest.base_model_dir == ModelDir.of(config.model).path.as_posix()
        if outcome and same and outcome.seconds and f"device: {config.device}" in run_dir.config.read_text("utf-8"):
            rate = outcome.tokens / outcome.seconds
            say(f"time: about {duration(tokens / rate)} at the {rate:,.0f} tokens/s of run {run_id}, evaluation apart")
            return
    say(f"time: {tokens:,.0f} tokens; no run of this model on this machine yet to tell a rate from")


def _check_fit(config: RunConfig, shapes: memory.Shapes, needed: float, vram: float | None) -> None:
    if config.device == "cpu":
        available = psutil.virtual_memory().available
        if needed > available:
            raise MachineError(
                f"training needs about {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are free",
                _advice(config, shapes, available),
            )
        return
    card, size = _card(vram)
    usable = size - _SLACK * 2**30
    if needed > usable:
        raise MachineError(
            f"training needs about {needed / 2**30:.1f} GiB, and {card} has {usable / 2**30:.1f} GiB to give",
            _advice(config, shapes, usable),
        )
    say(f"fits: {needed / 2**30:.1f} of {usable / 2**30:.1f} GiB that {card} has to give")


def _card(vram: float | None) -> tuple[str, float]:
    if vram is not None:
        return f"a card of {vram:g} GB", vram * 2**30
    found = environment.gpus()
    if not found:
        raise MachineError(
            "the config asks for a CUDA GPU (device: cuda) and nvidia-smi lists none",
            "`invoke doctor` says why; `--vram 24` plans for a card that isn't here",
        )
    mebibytes = re.match(r"\d+", found[0]["memory"])
    return found[0]["name"], (int(mebibytes[0]) if mebibytes else math.inf) * 2**20


def _advice(config: RunConfig, shapes: memory.Shapes, usable: float) -> str:
    """The nearest setting that fits: what costs least is tried first."""
    tries: list[tuple[str, dict[str, object]]] = []
    training = config.training.model_dump()
    if not training["activation_checkpointing"]:
        tries.append(("training.activation_checkpointing=true", {"activation_checkpointing": True}))
    batch = training["per_device_train_batch_size"]
    while batch > 1:
        batch //= 2
        steps = training["gradient_accumulation_steps"] * training["per_device_train_batch_size"] // batch
        change = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
        words = f"training.per_device_train_batch_size={batch} --set training.gradient_accumulation_steps={steps}"
        tries.append((words, {"activation_checkpointing": True, **change}))
    length = training["max_length"]
    while length > 512:
        length //= 2
        small = {"activation_checkpointing": True, "per_device_train_batch_size": 1, "max_length": length}
        tries.append((f"training.max_length={length}", small))
    for words, change in tries:
        smaller = config.model_copy(update={"training": config.training.model_copy(update=change)})
        if memory.estimate(shapes, smaller).total <= usable:
            return f"It fits with --set {words}"
    if config.quantization is None:
        return "Quantise the base model: see configs/sft_qlora.yaml"
    return "Choose a smaller base model: see configs/models/"
