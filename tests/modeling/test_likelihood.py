from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.helpers import make_config
from transformers import AutoModelForCausalLM

from solotune.modeling import likelihood
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.likelihood import RowScore, fullest_passes, log_probabilities, loss, perplexity, score

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


def test_loss_and_perplexity_are_those_of_plain_transformers_in_batches_of_one(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    expected = [independent(model, row) for row in rows()]
    plain = sum(nll for nll, _ in expected) / sum(count for _, count in expected)
    found = loss(score(model, rows(), CONFIG))
    assert abs(found - plain) < 1e-4
    assert abs(perplexity(found) / math.exp(plain) - 1) < 1e-4


def test_each_token_has_its_likelihood_and_what_would_have_been_said_instead(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for row, found in zip(rows(), score(model, rows(), CONFIG), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
        at = [i for i, label in enumerate(row.labels[1:]) if label != IGNORE]
        said = torch.tensor(row.input_ids)[1:]
        expected = torch.nn.functional.cross_entropy(logits, said, reduction="none")[at]
        torch.testing.assert_close(torch.from_numpy(found.token_nll), expected, rtol=1e-4, atol=1e-4)
        assert found.greedy.tolist() == logits.argmax(dim=1)[at].tolist()
        assert found.nll == pytest.approx(float(found.token_nll.sum()), rel=1e-6)
        assert len(found.token_nll) == len(found.greedy) == found.tokens


def test_distributions_are_those_that_the_scores_come_from(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    distributions = list(log_probabilities(model, rows(), CONFIG))
    assert model.training
    for row, whole, found in zip(rows(), distributions, score(model, rows(), CONFIG), strict=True):
        labels = torch.tensor([label for label in row.labels[1:] if label != IGNORE])
        assert whole.shape == (len(labels), 400)
        assert whole.dtype == torch.float32
        assert torch.allclose(whole.exp().sum(dim=1), torch.ones(len(labels)))
        assert torch.allclose(-whole.gather(1, labels[:, None])[:, 0], torch.from_numpy(found.token_nll), atol=1e-4)


def test_scores_dont_depend_on_how_rows_are_batched(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    together = score(model, rows(), CONFIG)
    alone = [score(model, [row], CONFIG)[0] for row in rows()]
    for a, b in zip(together, alone, strict=True):
        assert a.nll == pytest.approx(b.nll, rel=1e-5)


def test_for_want_of_memory_fewer_tokens_go_at_once_and_no_row_is_lost_or_scored_twice(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "tokens_at_once", lambda _: 400)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    config = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"max_length": 100})})
    expected = score(model, rows(), config)
    passes, told = [], []

    def refuse_long(_: torch.nn.Module, arguments: tuple[()], named: dict[str, torch.Tensor]) -> None:
        passes.append(named["input_ids"].numel())
        if passes[-1] > 110:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(refuse_long, with_kwargs=True)
    found = score(model, rows(), config, told.append)
    assert [s.nll for s in found] == pytest.approx([s.nll for s in expected], rel=1e-5)
    assert min(passes[:2]) >= sum(len(row.input_ids) for row in rows())  # 400 tokens at once, and 200
    assert max(passes[2:]) <= 110
    assert sum(told) == len(rows())
    monkeypatch.setattr(likelihood, "tokens_at_once", lambda _: 100)
    with pytest.raises(torch.OutOfMemoryError):
        score(model, [*rows(), Encoded([5] * 200, [5] * 200)], config)


def test_the_fullest_passes_have_the_most_tokens_and_the_most_labels() -> None:
    config = CONFIG.model_copy(update={"training": CONFIG.training.model_copy(update={"max_length": 100})})
    assert sum(len(row.input_ids) for row in fullest_passes(rows(), config)[0]) == 99
    assert fullest_passes(rows()[:1], config) == [rows()[:1]]
    long_prompt, long_answer = Encoded([5] * 100, [-100] * 99 + [5]), Encoded([6] * 90, [6] * 90)
    assert fullest_passes([long_answer, long_prompt], config) == [[long_prompt], [long_answer]]


def test_the_mode_of_the_model_is_left_as_it_was(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    score(model, rows()[:1], CONFIG)
    assert model.training


def test_the_loss_is_weighted_by_token() -> None:
    assert loss([RowScore(10.0, 10), RowScore(4.0, 1)]) == pytest.approx(14 / 11)


def test_perplexity_of_a_hopeless_model_is_infinite() -> None:
    assert perplexity(0.0) == 1.0
    assert perplexity(1000.0) == math.inf
