"""Greedy answers, in batches of prompts of like length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel

from solotune.config.schema import RunConfig
from solotune.console import warn
from solotune.modeling import card
from solotune.modeling.base_model import autocast
from solotune.modeling.chat import ChatEncoder


class Said(NamedTuple):
    """An answer."""

    text: str
    """Up to the stop token."""
    is_cut: bool
    """There was none: it would have gone on."""

    @classmethod
    def of(cls, ids: Sequence[int], encoder: ChatEncoder) -> Said:
        """Generated ids as text."""
        return cls(encoder.decode(ids), encoder.stop_ids.isdisjoint(ids))


def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    encoder: ChatEncoder,
    config: RunConfig,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    exactly: bool = False,
) -> list[str]:
    """The most likely answer to each prompt, as text up to the stop token; see `answer`."""
    return [said.text for said in answer(model, prompts, encoder, config, on_rows, exactly=exactly)]


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    encoder: ChatEncoder,
    config: RunConfig,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    exactly: bool = False,
) -> list[Said]:
    """The most likely answer to each prompt.

    Args:
        model: with or without an adapter, in any mode.
        prompts: ids that end where the assistant has the word (`ChatEncoder.encode_prompt`), or within its answer.
        on_rows: called with the number of rows done, after each batch. For want of memory batches become smaller.
        exactly: answer with max_new_tokens, none less: for a benchmark.

    Returns:
        Answers in the order of `prompts`.
    """
    was_training = model.training
    model.eval()
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, Said] = {}
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=config.evaluation.max_new_tokens,
        min_new_tokens=config.evaluation.max_new_tokens if exactly else None,
        eos_token_id=sorted(encoder.stop_ids),
        pad_token_id=encoder.pad_id,
        use_cache=True,
    )
    at_once = config.evaluation.batch_size
    try:
        while left := by_length[len(answers) :]:
            numbers = left[:at_once]
            try:
                sequences = _batch(model, [prompts[i] for i in numbers], encoder, settings, config)
            except RuntimeError as error:
                if len(numbers) == 1 or not card.is_lack_of_memory(error):
                    raise
                sequences = None
            if sequences is None:  # outside of `except`, whose traceback holds what is to be freed
                at_once = len(numbers) // 2
                warn(f"no GPU memory is left to answer {len(numbers)} rows at once; now {at_once}")
                torch.cuda.empty_cache()
                continue
            answers |= {i: Said.of(ids, encoder) for i, ids in zip(numbers, sequences, strict=True)}
            on_rows(len(numbers))
    finally:
        model.train(was_training)
    return [answers[i] for i in range(len(prompts))]


def _batch(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    encoder: ChatEncoder,
    settings: GenerationConfig,
    config: RunConfig,
) -> list[list[int]]:
    """What follows each prompt."""
    ids, mask = _left_padded(prompts, encoder.pad_id, model.device)
    with autocast(config):
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    found: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return found


def _left_padded(prompts: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, longest) ids and mask; padding on the left, so that every prompt ends where generation begins."""
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
