"""plan: will it fit, how many steps, how long; before a weight is loaded."""

from __future__ import annotations

import math
import re
from pathlib import Path

import psutil

from solotune import environment
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.artifacts.run_manifest import Layout
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import CardConfig, RunConfig
from solotune.console import counted, duration, say, stage, table, warn
from solotune.dataset.stored import read_rows
from solotune.errors import DataError, MachineError, SolotuneError
from solotune.modeling import determinism, memory
from solotune.modeling.card import GIB, allowed
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.layout import candidates, choose
from solotune.modeling.length_policy import kept_tokens
from solotune.modeling.step import why_not
from solotune.modeling.token_cache import tokenised
from solotune.modeling.trainer import make_sequences, steps_in_all

RUNS = Path("runs")


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
        in_a_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
        say(
            f"{counted(sequences, 'sequence')} of up to {training.max_length} tokens, "
            f"{counted(steps, 'optimiser step')} of {counted(in_a_step, 'sequence')}"
        )
        _say_time(config, tokens * steps * in_a_step / sequences)
        shapes = memory.shapes(base)
        room, whose = _room(config, vram)
        fixed_shape = not why_not(config, base)
        chosen = choose(shapes, config, room, fixed_shape=fixed_shape)
        layout = chosen or _least(shapes, config, fixed_shape=fixed_shape)
        needed = memory.estimate(shapes, config, layout)
        say(
            f"a step: {counted(layout.accumulation, 'forward pass')} of "
            f"{layout.sequences * training.max_length:,} tokens, "
            f"{layout.recomputed} of {shapes.layers} layers recomputed"
        )
        rows = [[part, f"{size / GIB:.2f}"] for part, size in needed.parts.items()]
        table(["memory of a step, estimated", "GiB"], [*rows, ["in all", f"{needed.total / GIB:.2f}"]])
        checkpoint = needed.adapter_parameters * 12
        disk = (training.save_total_limit + 1) * checkpoint + needed.adapter_parameters * 8
        say(f"adapter: {needed.adapter_parameters:,} of {needed.base_parameters:,} parameters are trained")
        say(f"disk: {disk / GIB:.2f} GiB for {training.save_total_limit} checkpoints and two copies of the adapter")
        for what in determinism.not_covered(config) or ["the same machine, config and data give the same adapter"]:
            say(f"determinism: {what.removeprefix('determinism: ')}")
        if chosen is None:
            raise MachineError(
                f"training needs about {needed.total / GIB:.1f} GiB, and {whose} has {room / GIB:.1f} GiB to give",
                _advice(config, shapes, room, fixed_shape=fixed_shape),
            )
        say(f"fits: {needed.total / GIB:.1f} of {room / GIB:.1f} GiB that {whose} has to give")
        say("next: invoke train --config CONFIG")


def _least(shapes: memory.Shapes, config: RunConfig, *, fixed_shape: bool) -> Layout:
    """The layout that needs least, to show what takes how much where none fits."""
    layouts = candidates(shapes, config, fixed_shape=fixed_shape)
    return min(layouts, key=lambda layout: memory.estimate(shapes, config, layout).total)


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


def _room(config: RunConfig, vram: float | None) -> tuple[float, str]:
    """Bytes that training may take, and of what."""
    if config.device == "cpu":
        if vram is not None:
            warn("--vram is about a GPU, and this config trains on the CPU (device: cpu)")
        return float(psutil.virtual_memory().available), "this machine"
    if vram is not None:
        return allowed(config, vram * GIB), f"a card of {vram:g} GB"
    found = environment.own_gpu()
    if not found:
        raise MachineError(
            "the config asks for a CUDA GPU (device: cuda) and nvidia-smi lists none",
            "`invoke doctor` says why; `--vram 24` plans for a card that isn't here",
        )
    mebibytes = re.match(r"\d+", found[0]["memory"])
    return allowed(config, (int(mebibytes[0]) if mebibytes else math.inf) * 2**20), found[0]["name"]


def _advice(config: RunConfig, shapes: memory.Shapes, room: float, *, fixed_shape: bool) -> str:
    """The nearest setting that fits: what costs least is tried first."""
    training = config.training
    effective = training.per_device_train_batch_size * training.gradient_accumulation_steps
    tries: list[dict[str, object]] = [
        {"activation_checkpointing": None},
        {"activation_checkpointing": None, "per_device_train_batch_size": 1, "gradient_accumulation_steps": effective},
    ]
    length = training.max_length
    while length > 512:
        length //= 2
        tries.append({**tries[1], "max_length": length})
    for change in tries:
        smaller = config.model_copy(
            update={"training": training.model_copy(update=change), "card": CardConfig(vram_gib=config.card.vram_gib)}
        )
        if choose(shapes, smaller, room, fixed_shape=fixed_shape):
            changed = {key: value for key, value in change.items() if value != getattr(training, key)}
            settings = [f"training.{key}={'null' if value is None else value}" for key, value in changed.items()]
            if config.card.tokens_per_micro_batch is not None:
                settings.append("card.tokens_per_micro_batch=null")
            return f"It fits with {' '.join(f'--set {setting}' for setting in settings)}"
    if config.quantization is None:
        return "Quantise the base model: see configs/sft_qlora.yaml"
    return "Choose a smaller base model: see configs/models/"
