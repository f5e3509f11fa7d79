from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.helpers import make_config
from transformers import AutoModelForCausalLM

from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.likelihood import RowScore, loss, perplexity, score

CONFIG = make_config(model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"})


def rows() -> list[Encoded]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for length, prompt in ((12, 5), (40, 3), (9, 8), (90, 60), (7, 1)):
        ids = torch.randint(3, 400, (length,), generator=generator).tolist()
        made.append(Encoded(ids, [IGNORE] * prompt + ids[prompt:]))
    return made


def independent(model: torch.nn.Module, row: Encoded) -> tuple[float, int]:
    """Plain transformers, one row at a time, its own loss."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]))
    count = sum(label != IGNORE for label in row.labels[1:])
    return float(found.loss) * count, count


def test_scores_equal_an_independent_computation(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    expected = [independent(model, row) for row in rows()]
    found = score(model, rows(), CONFIG)
    assert [s.tokens for s in found] == [n for _, n in expected]
    for mine, (nll, _) in zip(found, expected, strict=True):
        assert mine.nll == pytest.approx(nll, rel=1e-5)
    assert loss(found) == pytest.approx(sum(n for n, _ in expected) / sum(c for _, c in expected), abs=1e-4)


def test_scores_dont_depend_on_how_rows_are_batched(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    together = score(model, rows(), CONFIG)
    alone = [score(model, [row], CONFIG)[0] for row in rows()]
    for a, b in zip(together, alone, strict=True):
        assert a.nll == pytest.approx(b.nll, rel=1e-5)


def test_the_mode_of_the_model_is_left_as_it_was(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    score(model, rows()[:1], CONFIG)
    assert model.training


def test_the_loss_is_weighted_by_token() -> None:
    assert loss([RowScore(10.0, 10), RowScore(4.0, 1)]) == pytest.approx(14 / 11)


def test_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1000.0) == math.inf
