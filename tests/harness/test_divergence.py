from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from solotune.artifacts.measured import Divergence
from solotune.harness.divergence import diverge, remember, score_and_diverge
from solotune.harness.held_out import HeldOut
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.generate import Said
from solotune.modeling.likelihood import RowScore
from solotune.modeling.subject import Subject, TorchSubject


class Fixed:
    """A subject that finds the same distribution at every label."""

    def __init__(self, logits: Sequence[float]) -> None:
        self.found = torch.tensor(logits).log_softmax(0)

    def score(self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = lambda _: None) -> list[RowScore]:
        likeliest = int(self.found.argmax())
        return [
            RowScore(0.0, n, np.zeros(n, np.float32), np.full(n, likeliest, np.int32))
            for n in (sum(label != IGNORE for label in row.labels[1:]) for row in rows)
        ]

    def answer(self, prompts: Sequence[list[int]], on_rows: Any = None) -> list[Said]:
        raise AssertionError

    def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
        for row in rows:
            yield self.found.expand(sum(label != IGNORE for label in row.labels[1:]), -1)


def divergence(reference: Subject, candidate: Subject, held_out: HeldOut) -> Divergence:
    with TemporaryDirectory() as folder:
        return diverge(remember("reference", reference, held_out, Path(folder)), "candidate", candidate, held_out)


def test_a_model_doesnt_diverge_from_itself(held_out: HeldOut, subject_of: Callable[..., TorchSubject]) -> None:
    found = divergence(subject_of(), subject_of(), held_out)
    assert found.positions == sum(row.trained_tokens for row in held_out.encoded)
    assert (found.max_logit_difference, found.kl_mean, found.kl_max) == (0.0, 0.0, 0.0)
    assert found.greedy_agreement == found.of_vocabulary == 1.0


def test_the_figures_are_those_of_the_textbook(held_out: HeldOut) -> None:
    ours, theirs = [2.0, 1.0, 0.5], [1.0, 2.0, 0.25]
    found = divergence(Fixed(ours), Fixed(theirs), held_out)
    p, q = (torch.tensor(x, dtype=torch.float64).softmax(0) for x in (ours, theirs))
    expected = float((p * (p / q).log()).sum())
    assert found.kl_mean == pytest.approx(expected, abs=1e-6)
    assert found.kl_max == pytest.approx(expected, abs=1e-6)
    differences = (p.log() - q.log()).abs()
    assert found.max_logit_difference == pytest.approx(float(differences.max()), abs=1e-6)
    assert found.mean_logit_difference == pytest.approx(float(differences.mean()), abs=1e-6)
    assert found.greedy_agreement == 0.0


def test_a_token_that_neither_can_say_is_no_difference(held_out: HeldOut) -> None:
    found = divergence(Fixed([1.0, 0.0, -math.inf]), Fixed([1.0, 0.0, -math.inf]), held_out)
    assert (found.kl_mean, found.max_logit_difference) == (0.0, 0.0)


def test_a_padded_vocabulary_is_compared_where_both_have_it(held_out: HeldOut) -> None:
    found = divergence(Fixed([1.0, 0.0, 0.0]), Fixed([1.0, 0.0]), held_out)
    assert found.kl_mean == pytest.approx(0.0, abs=1e-6)
    p = torch.tensor([1.0, 0.0, 0.0]).softmax(0)
    assert found.of_vocabulary == pytest.approx(float(p[:2].sum()), abs=1e-6)


def test_more_noise_diverges_more(held_out: HeldOut, subject_of: Callable[..., TorchSubject], tmp_path: Path) -> None:
    remembered = remember("reference", subject_of(), held_out, tmp_path)
    little, much = (diverge(remembered, "noisy", subject_of(noise), held_out) for noise in (1e-4, 1e-2))
    assert little.kl_mean is not None
    assert much.kl_mean is not None
    assert 0 < little.kl_mean < 1e-4 < much.kl_mean
    assert much.greedy_agreement < 1.0


def test_scores_that_are_there_already_arent_made_again(held_out: HeldOut, tmp_path: Path) -> None:
    remembered = remember("reference", Fixed([1.0, 0.0]), held_out, tmp_path)
    candidate = Fixed([1.0, 0.0])
    scores = candidate.score(held_out.encoded)
    candidate.score = None  # type: ignore[method-assign,assignment]
    assert diverge(remembered, "candidate", candidate, held_out, scores).greedy_agreement == 1.0


def test_what_is_compared_whole_is_bounded_and_spread_over_all_rows(
    held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solotune.harness.divergence.POSITIONS", 12)
    remembered = remember("reference", Fixed([1.0, 0.0]), held_out, tmp_path)
    assert np.load(remembered.path).shape == (12, 2)
    seen: list[int] = []

    class Watched(Fixed):
        def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
            seen.extend(row.trained_tokens for row in rows)
            return super().log_probabilities(rows)

    found = diverge(remembered, "candidate", Watched([1.0, 0.0]), held_out)
    assert found.positions == sum(row.trained_tokens for row in held_out.encoded) > 12
    assert sum(seen) == 12
    assert len(seen) == len(held_out)


class ReadOnce(Fixed):
    """One that tells scores and distributions of one pass, and is asked for nothing else."""

    def read(self, rows: Sequence[Encoded], labels: Sequence[Sequence[int]]) -> Iterator[tuple[RowScore, torch.Tensor]]:
        for row, wanted in zip(rows, labels, strict=True):
            yield super().score([row])[0], self.found.expand(len(wanted), -1)

    score = log_probabilities = None  # type: ignore[assignment]


@pytest.mark.parametrize("positions", [12, 2048])
def test_a_model_that_reads_once_is_asked_once_and_told_the_same(
    held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: int
) -> None:
    monkeypatch.setattr("solotune.harness.divergence.POSITIONS", positions)
    remembered = remember("reference", Fixed([1.0, 0.0, 0.5]), held_out, tmp_path)
    logits = [0.5, 0.25, 0.5]
    scores, once = score_and_diverge(remembered, "candidate", ReadOnce(logits), held_out)
    twice = Fixed(logits)
    assert once == diverge(remembered, "candidate", twice, held_out)
    assert scores == twice.score(held_out.encoded)
