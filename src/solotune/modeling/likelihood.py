"""How likely a model finds the assistant's tokens: the exact held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from solotune.config.schema import RunConfig
from solotune.modeling.base_model import autocast
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.packing import collate, join, pack


@dataclass(frozen=True, slots=True)
class RowScore:
    """One row: summed negative log-likelihood of its labelled tokens in nats, and how many there are."""

    nll: float
    tokens: int


def loss(scores: Sequence[RowScore]) -> float:
    """Mean negative log-likelihood in nats, weighted by token."""
    return math.fsum(s.nll for s in scores) / sum(s.tokens for s in scores)


def perplexity(mean_nll: float) -> float:
    """exp(loss); infinite where that overflows."""
    return math.exp(mean_nll) if mean_nll < 700 else math.inf


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
        config: says how long a pass may be (training.max_length) and where it runs.
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
    lengths = [len(row.input_ids) for row in rows]
    capacity = max(config.training.max_length, max(lengths, default=0))
    scores: dict[int, RowScore] = {}
    device = next(model.parameters()).device
    for numbers in pack(lengths, capacity, seed=0):
        batch = {k: v.to(device) for k, v in collate([join([rows[i] for i in numbers])], pad_id=0).items()}
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
        nll = torch.nn.functional.cross_entropy(logits.float(), targets[at], reduction="none").double().cpu()
        start = 0
        for i in numbers:
            count = sum(label != IGNORE for label in rows[i].labels[1:])
            scores[i] = RowScore(float(nll[start : start + count].sum()), count)
            start += count
        on_rows(len(numbers))
    return [scores[i] for i in range(len(rows))]
