"""What can be measured: anything that scores chats and answers prompts, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from solotune.modeling.chat import Encoded
from solotune.modeling.likelihood import RowScore


def _nobody(_: int) -> None:
    pass


class Subject(Protocol):
    """A model as the harness sees it. Rows and prompts are token ids that one `ChatEncoder` made for all subjects."""

    def score(self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = _nobody) -> list[RowScore]:
        """How likely it finds each labelled token, in the order of `rows`; `on_rows` is told how many are done."""

    def answer(self, prompts: Sequence[list[int]], on_rows: Callable[[int], None] = _nobody) -> list[str]:
        """Its most likely answer to each prompt, up to the stop token, as text."""

    def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
        """For each row (labelled tokens, vocabulary) float32 on the CPU: log-softmax of the logits at each label."""
