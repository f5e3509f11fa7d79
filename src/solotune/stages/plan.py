"""plan: will it fit, how many steps, how long; before a weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import psutil

from solotune import environment
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.load import load
from solotune.config.schema import CardConfig, QuantizationConfig, RunConfig
from solotune.console import counted, duration, say, stage, table, warn
from solotune.dataset.stored import read_rows
from solotune.errors import DataError, MachineError, SolotuneError
from solotune.modeling import card, determinism, memory
from solotune.modeling.card import GIB, allowed
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.layout import choose, least
from solotune.modeling.length_policy import kept_tokens
from solotune.modeling.step import why_not
from solotune.modeling.token_cache import tokenised
from solotune.modeling.trainer import lengths_of, make_sequences, steps_in_all

RUNS = Path("runs")
_PACE = (
    "max_length",
    "packing",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "activation_checkpointing",
)


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
        sequences, tokens, longest = _read(config, base)
        steps = steps_in_all(sequences, config)
        training = config.training
        in_a_step = training.per_device_train_batch_size * training.gradient_accumulation_steps
        say(
            f"{counted(sequences, 'sequence')} of up to {training.max_length} tokens, "
            f"{counted(steps, 'optimiser step')} of {counted(in_a_step, 'sequence')}"
        )
        _say_time(config, tokens * steps / math.ceil(sequences / in_a_step))
        shapes = memory.shapes(base)
        room, whose = _room(config, vram)
        fixed_shape = not why_not(config, base)
        chosen = choose(shapes, config, room, fixed_shape=fixed_shape)
        layout = chosen or least(shapes, config, fixed_shape=fixed_shape)  # to show what takes how much
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
                _advice(config, shapes, room, longest, fixed_shape=fixed_shape),
            )
        say(f"fits: {needed.total / GIB:.1f} of {room / GIB:.1f} GiB that {whose} has to give")
        say("next: invoke train --config CONFIG")


def _read(config: RunConfig, base: ModelDir) -> tuple[int, int, int]:
    """Sequences and tokens of an epoch, and the tokens of its longest row."""
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
    return len(make_sequences(rows, config)), rows.tokens_in_all, max(lengths_of(rows))


def _say_time(config: RunConfig, tokens: float) -> None:
    """A time is told only from a rate that was measured here: of a run with the same settings, if there is one."""
    say(f"tokens: {tokens:,.0f} in all steps")
    found = min(_rates(config), key=lambda one: len(one[2]), default=None)
    if found is None:
        say("time: not known yet: there is no earlier run of this model on this kind of machine")
        return
    run_id, rate, others = found
    but = f", which differs in {', '.join(others)}" if others else ""
    at = f"at the {rate:,.0f} tokens/s of run {run_id}{but}; loading and evaluation apart"
    say(f"time: about {duration(tokens / rate)} {at}")


def _rates(config: RunConfig) -> Iterator[tuple[str, float, list[str]]]:
    """Finished runs of this model on this kind of device, the latest first: tokens/s, and what else sets the pace."""
    here = [gpu["name"] for gpu in environment.own_gpu()] if config.device == "cuda" else None
    for run_id in reversed(run_ids(RUNS)):
        run_dir = RunDir(RUNS / run_id)
        try:
            manifest = run_dir.manifest()
            own = load(run_dir.config_of(manifest))
        except SolotuneError:
            continue
        outcome, gpus = manifest.outcome, manifest.environment.get("gpu") or []
        there = [gpu["name"] for gpu in gpus] if own.device == "cuda" else None
        if outcome and outcome.seconds and own.model == config.model and there == here:
            yield run_id, outcome.tokens / outcome.seconds, _other_pace(own, config)


def _other_pace(one: RunConfig, other: RunConfig) -> list[str]:
    """Keys in which two configs differ, of those that a step's speed depends on."""
    ours, theirs = one.model_dump(), other.model_dump()
    pairs = [(key, ours[key], theirs[key]) for key in ("determinism", "quantization", "lora", "card")]
    pairs += [(f"training.{key}", ours["training"][key], theirs["training"][key]) for key in _PACE]
    return [name for name, a, b in pairs if a != b]


def _room(config: RunConfig, vram: float | None) -> tuple[float, str]:
    """Bytes that training may take, and of what."""
    if config.device == "cpu":
        if vram is not None:
            warn("--vram is about a GPU, and this config trains on the CPU (device: cpu)")
        return float(psutil.virtual_memory().available), "this machine"
    if vram is not None:
        return allowed(config, card.of_size(vram)), f"a card of {vram:g} GB"
    name, size = card.here()
    return allowed(config, size), name


def _advice(config: RunConfig, shapes: memory.Shapes, room: float, longest: int, *, fixed_shape: bool) -> str:
    """The nearest setting that fits: what costs least is tried first; `longest` is the longest row's tokens."""
    training = config.training
    effective = training.per_device_train_batch_size * training.gradient_accumulation_steps
    own_card = CardConfig(vram_gib=config.card.vram_gib)
    recomputing: dict[str, object] = {"activation_checkpointing": None}
    smallest = {**recomputing, "per_device_train_batch_size": 1, "gradient_accumulation_steps": effective}

    def fits(change: dict[str, object], quantization: QuantizationConfig | None) -> bool:
        update = {"training": training.model_copy(update=change), "card": own_card, "quantization": quantization}
        return choose(shapes, config.model_copy(update=update), room, fixed_shape=fixed_shape) is not None

    def told(change: dict[str, object], quantization: QuantizationConfig | None) -> str:
        changed = {key: value for key, value in change.items() if value != getattr(training, key)}
        settings = [f"training.{key}={'null' if value is None else value}" for key, value in changed.items()]
        if config.card.tokens_per_micro_batch is not None:
            settings.append("card.tokens_per_micro_batch=null")
        if quantization != config.quantization:
            settings.insert(0, "quantization.load_in_4bit=true")
        return f"It fits with {' '.join(f'--set {setting}' for setting in settings)}"

    ways = [config.quantization] if config.quantization else [None, QuantizationConfig()]
    for quantization in ways:
        for change in (recomputing, smallest):
            if fits(change, quantization):
                return told(change, quantization)
    length = training.max_length // 2
    while length >= 512:
        for quantization in ways:
            change = {**smallest, "max_length": length}
            if fits(change, quantization):
                shorter = f"the longest row has {longest:,} tokens"
                if longest > length:
                    return (
                        f"{told(change, quantization)} --set dataset.on_overflow=drop, without longer rows ({shorter})"
                    )
                return f"{told(change, quantization)} ({shorter}; a step then has fewer)"
        length //= 2
    return "Choose a smaller base model: see configs/models/"
