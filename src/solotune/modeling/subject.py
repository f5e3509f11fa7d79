"""What can be measured: anything that scores chats and answers prompts, whatever runs it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import torch

from solotune.config.schema import RunConfig
from solotune.modeling import generate, likelihood
from solotune.modeling.base_model import computes_in
from solotune.modeling.chat import ChatEncoder, Encoded
from solotune.modeling.generate import Said
from solotune.modeling.likelihood import RowScore


def _nobody(_: int) -> None:
    pass


class Subject(Protocol):
    """A model as the harness sees it. Rows and prompts are token ids that one `ChatEncoder` made for all subjects."""

    def score(self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = _nobody) -> list[RowScore]:
        """How likely it finds each labelled token, in the order of `rows`; `on_rows` is told how many are done."""

    def answer(self, prompts: Sequence[list[int]], on_rows: Callable[[int], None] = _nobody) -> list[Said]:
        """Its most likely answer to each prompt, up to the stop token."""

    def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
        """For each row (labelled tokens, vocabulary) float32 on the CPU: log-softmax of the logits at each label."""


@runtime_checkable
class ReadsOnce(Protocol):
    """A subject that can tell a row's score and its distributions of one pass."""

    def read(self, rows: Sequence[Encoded], labels: Sequence[Sequence[int]]) -> Iterator[tuple[RowScore, torch.Tensor]]:
        """For each row what `score` gives, and what `log_probabilities` does at the labels of these numbers."""


class TorchSubject:
    """A model of transformers, with or without an adapter, as the harness's `Subject`.

    Args:
        model: the base model, one with its adapter switched on or off, or a merged one.
        encoder: of the run.
        config: says how long a pass and an answer may be, and in which precision is computed.
    """

    def __init__(self, model: Any, encoder: ChatEncoder, config: RunConfig) -> None:
        self._model, self._encoder, self._config = model, encoder, config

    @property
    def computes_in(self) -> str:
        """See `base_model.computes_in`."""
        return computes_in(self._model, self._config)

    def score(self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = _nobody) -> list[RowScore]:
        """See `Subject.score`; several rows in one pass, none seeing another, without padding."""
        return likelihood.score(self._model, rows, self._config, on_rows)

    def answer(self, prompts: Sequence[list[int]], on_rows: Callable[[int], None] = _nobody) -> list[Said]:
        """See `Subject.answer`; prompts of like length side by side."""
        return generate.answer(self._model, prompts, self._encoder, self._config, on_rows)

    def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
        """See `Subject.log_probabilities`; row by row."""
        return likelihood.log_probabilities(self._model, rows, self._config)

    def close(self) -> None:
        """Gives the model's memory back, where nobody else holds it."""
        self._model = None
        gc.collect()
        # Freed tensors below 32 MiB stay with glibc's heap: beside the next model they would count twice.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
