"""How likely a model finds the assistant's tokens: the exact held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solotune.config.schema import RunConfig
from solotune.modeling import card
from solotune.modeling.base_model import autocast
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.packing import collate, join, pack

_TOKENS_ON_A_GPU = 4096
"""In one forward pass, at least: with fewer, a GPU waits for its launches and unpacks 4-bit weights more often."""
_POSITIONS_AT_ONCE = 512
"""Whose logits stand in float32 at a time: with a vocabulary of 128,000 a quarter of a GB."""


def _floats() -> NDArray[np.float32]:
    return np.empty(0, np.float32)


def _ids() -> NDArray[np.int32]:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class RowScore:
    """One row: summed negative log-likelihood of its labelled tokens in nats, and how many there are."""

    nll: float
    tokens: int
    token_nll: NDArray[np.float32] = field(default_factory=_floats, compare=False, repr=False)
    """(tokens,) that of each labelled token, in order."""
    greedy: NDArray[np.int32] = field(default_factory=_ids, compare=False, repr=False)
    """(tokens,) the id that the model finds likeliest where each of them stands."""


def loss(scores: Sequence[RowScore]) -> float:
    """Mean negative log-likelihood in nats, weighted by token."""
    return math.fsum(s.nll for s in scores) / sum(s.tokens for s in scores)


def perplexity(mean_nll: float) -> float:
    """exp(loss); infinite where that overflows."""
    return math.exp(mean_nll) if mean_nll < 700 else math.inf


def tokens_at_once(config: RunConfig) -> int:
    """That go through the model in one forward pass; more where a single row is longer, fewer for want of memory."""
    return max(config.training.max_length, _TOKENS_ON_A_GPU if config.device == "cuda" else 0)


@torch.no_grad()
def score(
    model: torch.nn.Module,
    rows: Sequence[Encoded],
    config: RunConfig,
    on_rows: Callable[[int], None] = lambda _: None,
) -> list[RowScore]:
    """Scores rows, several in one forward pass, none seeing another; padding and batch size change nothing.

    Only the positions before a label go through the output head, and their logits are summed in float32.

    Args:
        model: a causal language model of transformers, with or without an adapter.
        rows: encoded chats.
        config: says how long a pass is (`tokens_at_once`) and where it runs.
        on_rows: called with the number of rows done, after each pass.

    Returns:
        A score for each row, in the order of `rows`.
    """
    was_training = model.training
    try:
        return _score(model.eval(), rows, config, on_rows)
    finally:
        model.train(was_training)


def _score(
    model: torch.nn.Module, rows: Sequence[Encoded], config: RunConfig, on_rows: Callable[[int], None]
) -> list[RowScore]:
    scores: dict[int, RowScore] = {}
    tokens = tokens_at_once(config)
    while len(scores) < len(rows):
        left = [i for i in range(len(rows)) if i not in scores]
        try:
            for numbers in _passes([len(rows[i].input_ids) for i in left], tokens):
                _score_pass(model, rows, [left[n] for n in numbers], config, scores)
                on_rows(len(numbers))
        except RuntimeError as error:
            if tokens <= config.training.max_length or not card.is_lack_of_memory(error):
                raise
            tokens = max(tokens // 2, config.training.max_length)
    return [scores[i] for i in range(len(rows))]


def _score_pass(
    model: torch.nn.Module,
    rows: Sequence[Encoded],
    numbers: Sequence[int],
    config: RunConfig,
    scores: dict[int, RowScore],
) -> None:
    some = [rows[i] for i in numbers]
    logits, targets = _at_labels(model, some, config)
    nll, greedy = _in_float32(logits, targets)
    start = 0
    for i, row in zip(numbers, some, strict=True):
        end = start + sum(label != IGNORE for label in row.labels[1:])
        own = nll[start:end]
        scores[i] = RowScore(float(own.sum(dtype=np.float64)), end - start, own, greedy[start:end])
        start = end


def fullest_passes(rows: Sequence[Encoded], config: RunConfig) -> list[list[Encoded]]:
    """Of what `score` takes at once, the rows with the most tokens, and those with the most labels if they are others.

    Activations go with the former, logits with the latter.
    """
    # One look at each row: of half a million rows a second takes long.
    sizes = [(len(row.input_ids), len(row.labels) - row.labels.count(IGNORE)) for row in rows]
    tokens, labels = [size[0] for size in sizes], [size[1] for size in sizes]
    passes = _passes(tokens, tokens_at_once(config))
    fullest = [max(passes, key=lambda some: sum(of[i] for i in some)) for of in (tokens, labels)]
    return [[rows[i] for i in numbers] for numbers in fullest[: 1 if fullest[0] == fullest[1] else 2]]


def _passes(lengths: list[int], tokens: int) -> list[list[int]]:
    """Numbers of rows, a list for each forward pass of so many tokens."""
    return pack(lengths, max(tokens, max(lengths, default=0)), seed=0)


@torch.no_grad()
def log_probabilities(model: torch.nn.Module, rows: Sequence[Encoded], config: RunConfig) -> Iterator[torch.Tensor]:
    """For each row (labelled tokens, vocabulary) float32 on the CPU: log-softmax of the logits at each label.

    Each row goes through the model alone: its figures depend on no other, in whatever company it is asked for.
    """
    for row in rows:
        was_training = model.training
        model.eval()
        logits, _ = _at_labels(model, [row], config)
        model.train(was_training)
        parts = [torch.log_softmax(part.float(), dim=-1).cpu() for part in logits.split(_POSITIONS_AT_ONCE)]
        yield torch.cat(parts)


def _at_labels(model: torch.nn.Module, rows: Sequence[Encoded], config: RunConfig) -> tuple[Any, torch.Tensor]:
    """One forward pass: (labels of all rows, vocabulary) logits in the model's precision, and (labels,) the labels."""
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in collate([join(rows)], pad_id=0).items()}
    targets = batch["labels"][0, 1:]
    at = (targets != IGNORE).nonzero().squeeze(1)
    with autocast(config):
        # use_cache=False: with a cache transformers would not see that rows are packed, and they would mix.
        logits = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            use_cache=False,
            logits_to_keep=at,
        ).logits[0]
    return logits, targets[at]


def _in_float32(logits: torch.Tensor, targets: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(labels,) negative log-likelihoods and (labels,) likeliest ids; a part of the logits at a time."""
    nll, greedy = [], []
    for part, target in zip(logits.split(_POSITIONS_AT_ONCE), targets.split(_POSITIONS_AT_ONCE), strict=True):
        nll.append(torch.nn.functional.cross_entropy(part.float(), target, reduction="none"))
        greedy.append(part.argmax(dim=-1))
    if not nll:
        return _floats(), _ids()
    return torch.cat(nll).cpu().numpy(), torch.cat(greedy).int().cpu().numpy()
