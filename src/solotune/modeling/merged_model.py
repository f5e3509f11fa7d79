"""A merged model to be measured or served: on the GPU where that has room for it, in the type that is fast there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from transformers import PreTrainedModel

from solotune.artifacts.model_dir import ModelDir
from solotune.config.precision import has_fast_bfloat16
from solotune.config.schema import RunConfig
from solotune.console import say
from solotune.errors import MachineError
from solotune.modeling import card
from solotune.modeling.base_model import load_merged_model
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.subject import TorchSubject

_BESIDE_WEIGHTS = 2 * card.GIB
"""Activations, and the logits of a pass over a vocabulary of 128,000."""


@contextmanager
def merged_subject(folder: Path, encoder: ChatEncoder, config: RunConfig, fix: str) -> Iterator[TorchSubject]:
    """The model of this folder; its memory is free again when the block ends.

    Args:
        folder: with safetensors and config.json.
        encoder: of the run.
        config: of the run.
        fix: what helps where the GPU's memory is too small all the same.

    Raises:
        MachineError: it is, while the model is loaded or in the block.
    """
    where = where_it_fits(folder, config)
    if where.device != config.device:
        say(
            f"the merged model takes {_weights(folder) / card.GIB:.1f} GiB, and {card.enforce(config) / card.GIB:.1f} "
            f"of the GPU may be used: it is measured on the CPU, in {where.model.dtype}, which takes a while"
        )
    subject = None
    try:
        subject = TorchSubject(load(folder, where), encoder, where)
        yield subject
    except RuntimeError as error:
        if not card.is_lack_of_memory(error):
            raise
        raise MachineError("the merged model doesn't fit into the GPU's memory while it is measured", fix) from error
    finally:
        if subject:
            subject.close()


def load(folder: Path, config: RunConfig) -> PreTrainedModel:
    """In the type that it is stored in; where a CPU run computes in float32, in that, if there is memory for it.

    The stored values are the same in both.
    """
    wide = config.device == "cpu" and config.model.dtype == "float32" and _has_room_for_float32(folder)
    return load_merged_model(folder, config, "float32" if wide else None)


def where_it_fits(folder: Path, config: RunConfig) -> RunConfig:
    """The config, with the CPU for its device where the model is too large for what may be used of the GPU.

    What was trained on 4-bit weights is three times as large when it is merged. A processor that is slow in bfloat16
    takes float32, where there is memory for that.
    """
    if _weights(folder) + _BESIDE_WEIGHTS <= card.enforce(config):
        return config
    model = config.model
    if not has_fast_bfloat16() and _has_room_for_float32(folder):
        model = model.model_copy(update={"dtype": "float32"})
    return config.model_copy(update={"device": "cpu", "model": model})


def _has_room_for_float32(folder: Path) -> bool:
    return 2 * _weights(folder) + _BESIDE_WEIGHTS <= psutil.virtual_memory().available


def _weights(folder: Path) -> int:
    return sum(file.stat().st_size for file in ModelDir(folder).weight_files())
