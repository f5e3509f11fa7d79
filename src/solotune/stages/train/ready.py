"""A model and its trainer, cut to fit the card, with everything tried once on the longest rows."""

from __future__ import annotations

import gc
import math
import time

import msgspec
import torch

from solotune.artifacts.disk import refuse_without_room
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Layout, Rehearsal, RunManifest
from solotune.config.schema import RunConfig
from solotune.console import counted, duration, say, warn
from solotune.environment import is_wsl
from solotune.errors import MachineError
from solotune.modeling import card, determinism, memory
from solotune.modeling.base_model import load_base_model
from solotune.modeling.layout import choose, smaller
from solotune.modeling.lora import tokenizer_bytes
from solotune.modeling.rehearsal import StepDoesntFit, rehearse
from solotune.modeling.step import why_not
from solotune.modeling.trainer import AdapterTrainer
from solotune.stages.train.inputs import Inputs

_TELLING = 0.25 * card.GIB
"""Less than that is no shortage to speak of."""
_LOWERED = (
    "the micro-batch was lowered in the rehearsal for want of memory: where more is free, another one is chosen, "
    "and the last bits differ"
)


def make_ready(
    config: RunConfig, run_dir: RunDir, manifest: RunManifest, inputs: Inputs, go_on: str
) -> tuple[AdapterTrainer, RunManifest]:
    """Loads the model, makes the trainer and rehearses; lowers the micro-batch where that runs out of memory.

    A run that goes on keeps its layout: with another one its last bits would be others.

    Args:
        manifest: of the run; with a layout, that one is taken.
        go_on: the command that goes on with the run, for messages.

    Raises:
        MachineError: no layout fits, with what to change.
        ArtifactError: the disk has no room for the coming checkpoints.
    """
    if is_wsl() and config.training.optim.startswith("paged"):
        warn(
            "paged optimisers use memory that WSL moves to the PC's at will; adamw_8bit takes little more and is faster"
        )
    limit = card.enforce(config)
    if config.device == "cuda" and (free := card.free()) < limit - _TELLING:
        beyond = "WSL would put the rest into the PC's memory, several times slower" if is_wsl() else "a step may fail"
        warn(
            f"{_gib(free)} of the GPU are free, and training may take {_gib(limit)}: {beyond}. Close other programs "
            "(`nvidia-smi` lists some), or lower card.vram_gib"
        )
    shapes = memory.shapes(inputs.base)
    layout = manifest.layout or _chosen(config, shapes, inputs, limit)
    _say_layout(config, layout, inputs)
    while True:
        determinism.start(config, manifest.environment.get("threads"))  # the adapter's first values hang on it
        trainer = _trainer(config, run_dir, inputs, layout)
        trainer.go_on = go_on
        _refuse_without_room(config, run_dir, trainer, inputs)
        try:
            rehearsal = rehearse(trainer, inputs.encoder, limit)
            trainer.measured_checkpoint_bytes = rehearsal.checkpoint_bytes
            _refuse_without_room(config, run_dir, trainer, inputs)  # now that it is known what one takes
            break
        except StepDoesntFit:
            pass  # its traceback holds the trainer until here
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
        layout = _next(config, shapes, layout, limit, began=manifest.layout is not None)
        others = [what for what in manifest.not_covered if what != _LOWERED]
        manifest = msgspec.structs.replace(manifest, not_covered=[*others, _LOWERED])
    _say_rehearsal(rehearsal)
    manifest = msgspec.structs.replace(manifest, layout=layout, rehearsal=rehearsal)
    run_dir.write_manifest(manifest)
    return trainer, manifest


def _chosen(config: RunConfig, shapes: memory.Shapes, inputs: Inputs, limit: float) -> Layout:
    fixed_shape = not why_not(config, inputs.base)
    layout = choose(shapes, config, limit, fixed_shape=fixed_shape)
    if layout is None:
        raise MachineError(
            f"no way to cut a step of {config.name!r} fits into {_gib(limit)}",
            "`invoke plan --config CONFIG` says what takes how much, and the nearest setting that fits",
        )
    return layout


def _trainer(config: RunConfig, run_dir: RunDir, inputs: Inputs, layout: Layout) -> AdapterTrainer:
    start = time.monotonic()
    model = load_base_model(inputs.base, config)
    say(f"{config.model.name_or_path} loaded in {duration(time.monotonic() - start)}")
    return AdapterTrainer(model, inputs.base, config, run_dir, inputs.train, inputs.val, inputs.encoder.pad_id, layout)


def _next(config: RunConfig, shapes: memory.Shapes, layout: Layout, limit: float, *, began: bool) -> Layout:
    if began:
        raise MachineError(
            "the step that this run began with doesn't fit into the GPU's memory now",
            "Free GPU memory (`nvidia-smi` lists who has it), then resume; on a smaller card start a new run",
        )
    following = smaller(shapes, config, layout, limit)
    if following is None:
        ways = ["lower training.max_length or lora.r"]
        if config.card.tokens_per_micro_batch is not None:
            ways.insert(0, "leave out card.tokens_per_micro_batch, for which the micro-batch couldn't be lowered")
        if config.device == "cuda" and config.training.activation_checkpointing is False:
            ways.insert(0, "leave training.activation_checkpointing at null, so that layers can be computed again")
        if config.quantization is None:
            ways.append("quantise the base model (configs/sft_qlora.yaml)")
        how = ", or ".join(ways)
        raise MachineError(
            f"the smallest step of {config.name!r} doesn't fit into {_gib(limit)}", how[0].upper() + how[1:]
        )
    warn(
        f"out of memory in the rehearsal with {_words(config, layout)}; now {_words(config, following)}. "
        "The effective batch is the same"
    )
    return following


def _refuse_without_room(config: RunConfig, run_dir: RunDir, trainer: AdapterTrainer, inputs: Inputs) -> None:
    # One more than are kept: the oldest goes when the newest is whole.
    coming = max(1, config.training.save_total_limit + 1 - len(trainer.checkpoints.steps()))
    refuse_without_room(
        run_dir.path,
        coming * trainer.checkpoint_bytes + trainer.adapter_bytes + tokenizer_bytes(inputs.base),
        f"{coming} checkpoints and the adapter",
        f"Free some space, then {trainer.go_on}",
    )


def _say_layout(config: RunConfig, layout: Layout, inputs: Inputs) -> None:
    say(f"a step: {_words(config, layout)}")
    why = why_not(config, inputs.base)
    if config.device == "cuda" and why and not layout.fixed_shape:
        say(f"  upstream's way, not the fast one: {why}")


def _words(config: RunConfig, layout: Layout) -> str:
    tokens = layout.sequences * config.training.max_length
    recomputed = f", {counted(layout.recomputed, 'layer')} recomputed" if layout.recomputed else ""
    return f"{counted(layout.accumulation, 'forward pass')} of {tokens:,} tokens{recomputed}"


def _gib(limit: float) -> str:
    return "this machine's memory" if math.isinf(limit) else f"{limit / card.GIB:.1f} GiB"


def _say_rehearsal(rehearsal: Rehearsal) -> None:
    save = f"a checkpoint has {rehearsal.checkpoint_bytes / 2**20:,.1f} MiB ({rehearsal.checkpoint_seconds:.1f} s)"
    peak = ""
    if (
        rehearsal.peak_bytes is not None
        and rehearsal.allowed_bytes is not None
        and rehearsal.reserved_bytes is not None
    ):
        free = (rehearsal.allowed_bytes - rehearsal.reserved_bytes) / card.GIB
        peak = (
            f"peak {rehearsal.peak_bytes / card.GIB:.2f} of {rehearsal.allowed_bytes / card.GIB:.2f} GiB, "
            f"{free:.2f} GiB of headroom; "
        )
    say(f"rehearsed on the longest rows in {duration(rehearsal.seconds)}: {peak}{save}")
