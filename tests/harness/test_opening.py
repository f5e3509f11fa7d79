"""Qwen3's template begins an answer with an empty block of thoughts, which a base model wouldn't say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.harness.conftest import make_row
from tests.modeling.families import FAMILIES, build

from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Measured
from solotune.harness.opening import opening_of
from solotune.modeling.likelihood import RowScore
from solotune.modeling.token_cache import tokenised

ROWS = [
    make_row(0, "is 2 even", "yes"),
    make_row(1, "on", "it is on", "and off", "it is off"),
    make_row(2, "blank", "\n\nno"),
]


@pytest.fixture
def family_of(tmp_path: Path) -> Callable[[str], HeldOut]:
    """Held-out rows as a family's tokenizer and template make them."""

    def make(name: str) -> HeldOut:
        encoder = build(FAMILIES[name], tmp_path / name)
        path = tmp_path / f"{name}.jsonl"
        path.write_text(name)  # only its hash is looked at
        return HeldOut("test", ROWS, tokenised(path, lambda: (row.messages for row in ROWS), encoder), encoder)

    return make


def test_every_model_is_asked_as_without_thinking(family_of: Callable[[str], HeldOut]) -> None:
    """The prompt has the ids of the template's own `enable_thinking=False`, whichever way they are made."""
    held_out = family_of("qwen3")
    encoder = held_out.encoder
    for i, row in enumerate(ROWS):
        messages = [{"role": m.role, "content": m.content} for m in row.messages[:-1]]
        text = encoder.template._compiled.render(messages=messages, add_generation_prompt=True, enable_thinking=False)
        assert encoder.decode(held_out.prompt(i)[-4:]).endswith("</think>\n\n")
        assert "".join(encoder.token_bytes(t).decode() for t in held_out.prompt(i)) == text
        assert held_out.prompt(i)[: -len(held_out.opening(i))] == encoder.encode_prompt(row.messages[:-1])
    labelled = held_out.answered_with(0, ["yes"])[0]
    assert encoder.decode([label for label in labelled.labels if label >= 0]) == "yes"


@pytest.mark.parametrize("name", ["smollm2", "qwen2_5", "llama3", "mistral", "mistral_v3", "gemma"])
def test_a_template_without_one_is_asked_as_ever(name: str, family_of: Callable[[str], HeldOut]) -> None:
    held_out = family_of(name)
    assert all(held_out.opening(i) == [] for i in range(len(ROWS)))
    assert opening_of({"base": measured(held_out, by_itself=False)}, held_out) is None


def test_who_would_say_it_and_what_it_weighs(family_of: Callable[[str], HeldOut]) -> None:
    held_out = family_of("qwen3")
    models = {"base": measured(held_out, by_itself=False), "adapter": measured(held_out, by_itself=True)}
    found = opening_of(models, held_out)
    assert found is not None
    assert found.text == "<think>\n\n</think>\n\n"
    assert found.models["base"].by_itself == 0
    assert found.models["adapter"].by_itself == found.models["adapter"].examples >= 2
    assert found.tokens == found.models["base"].examples * len(held_out.opening(0))
    # Of each token of the opening 5 nats, of all others 1.
    assert found.models["base"].loss_without == pytest.approx(1.0)


def measured(held_out: HeldOut, *, by_itself: bool) -> Measured:
    """A model that finds the opening unlikely, or likeliest, and each other token as likely as the next."""
    scores = []
    for i in range(len(held_out)):
        labels = [label for label in held_out.encoded[i].labels if label >= 0]
        start = sum(end - begin for begin, end in held_out.encoded.spans(i)[:-1])
        nll = np.ones(len(labels), np.float32)
        k = len(held_out.opening(i))
        if labels[start : start + k] == held_out.opening(i):
            nll[start : start + k] = 5.0
        greedy = np.array(labels if by_itself else [0] * len(labels), np.int32)
        scores.append(RowScore(float(nll.sum()), len(labels), nll, greedy))
    n = len(held_out)
    return Measured(scores, [""] * n, [None] * n, {}, [None] * n, range(n))
