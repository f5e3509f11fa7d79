"""How far one model is from another, token by token on the same rows: is what ships what was measured?

In two steps, since two models seldom fit into memory together: what the first finds is remembered on the disk, and
the second is held against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch

from solotune.artifacts.measured import Divergence
from solotune.console import Progress
from solotune.harness.held_out import HeldOut
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.likelihood import RowScore
from solotune.modeling.subject import ReadsOnce, Subject

POSITIONS = 2048
"""Of which whole distributions are compared: with a vocabulary of 128,000 they take 1 GB of the disk."""


@dataclass(frozen=True)
class Remembered:
    """What a model found: of every labelled token its likelihood, of some the whole distribution."""

    scores: list[RowScore]
    path: Path
    """(positions, vocabulary) float32 log-probabilities, as .npy."""


def bytes_remembered(vocabulary: int) -> int:
    """What `remember` takes of the disk at most, for a model with so many tokens."""
    return POSITIONS * vocabulary * 4


def remember(name: str, subject: Subject, held_out: HeldOut, folder: Path) -> Remembered:
    """Puts what others will be held against into a folder; the caller deletes it.

    Args:
        name: for the progress bar.
        subject: the model as it was trained.
        held_out: the rows.
        folder: with room for `bytes_remembered`.
    """
    with Progress(f"{name}: scoring", len(held_out), "rows") as bar:
        scores = subject.score(held_out.encoded, bar.advance)
    path = folder / "log_probabilities.npy"
    kept: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
    done = 0
    thinned = _thinned(held_out.encoded)
    with Progress(f"{name}: remembering distributions", len(thinned), "rows") as bar:
        for found in subject.log_probabilities(thinned):
            if kept is None:
                shape = (sum(row.trained_tokens for row in thinned), found.shape[1])
                kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            kept[done : done + len(found)] = found.numpy()
            done += len(found)
            bar.advance()
    assert kept is not None
    assert done == len(kept)
    kept.flush()
    return Remembered(scores, path)


def diverge(
    remembered: Remembered, name: str, subject: Subject, held_out: HeldOut, scores: Sequence[RowScore] | None = None
) -> Divergence:
    """Holds a model against what was remembered of another one on the same rows.

    Logits are compared as log-softmax, which takes out the constant that no probability depends on. KL is that of
    the remembered model's distribution from the candidate's, in nats. Where one vocabulary is longer (padding), both
    are cut to the shorter one and normalised again.

    Args:
        remembered: by `remember`, with these rows.
        name: for the progress bar.
        subject: what is held against it.
        held_out: the rows.
        scores: of `subject` on these rows, where they are there already.
    """
    if scores is None:
        return score_and_diverge(remembered, name, subject, held_out)[1]
    comparison = _Comparison(remembered)
    thinned = _thinned(held_out.encoded)
    with Progress(f"{name}: comparing distributions", len(thinned), "rows") as bar:
        for found in subject.log_probabilities(thinned):
            comparison.add(found)
            bar.advance()
    return comparison.divergence(scores)


def score_and_diverge(
    remembered: Remembered, name: str, subject: Subject, held_out: HeldOut
) -> tuple[list[RowScore], Divergence]:
    """Scores a model and holds it against what was remembered, as `diverge` does; where it can, in one pass."""
    if not isinstance(subject, ReadsOnce):
        with Progress(f"{name}: scoring", len(held_out), "rows") as bar:
            scores = subject.score(held_out.encoded, bar.advance)
        return scores, diverge(remembered, name, subject, held_out, scores)
    comparison, scores = _Comparison(remembered), []
    with Progress(f"{name}: scoring and comparing", len(held_out), "rows") as bar:
        for score, found in subject.read(held_out.encoded, _compared(held_out.encoded)):
            scores.append(score)
            comparison.add(found)
            bar.advance()
    return scores, comparison.divergence(scores)


class _Comparison:
    """Distributions beside those that were remembered, in the order of these."""

    def __init__(self, remembered: Remembered) -> None:
        self._remembered = remembered
        self._kept = np.load(remembered.path, mmap_mode="r")
        self._sums = _Sums()
        self._done = 0

    def add(self, found: torch.Tensor) -> None:
        """The next (positions, vocabulary) of log-probabilities."""
        self._sums.add(torch.from_numpy(self._kept[self._done : self._done + len(found)].copy()), found)
        self._done += len(found)

    def divergence(self, scores: Sequence[RowScore]) -> Divergence:
        """What came out when all were added. `scores`: of all labels, of the same model."""
        assert self._done == len(self._kept)
        sums = self._sums
        pairs = list(zip(self._remembered.scores, scores, strict=True))
        positions = sum(theirs.tokens for _, theirs in pairs)
        return Divergence(
            positions=positions,
            max_logit_difference=sums.most,
            mean_logit_difference=sums.differences / sums.values,
            kl_mean=sums.kl / self._done,
            kl_max=sums.kl_most,
            greedy_agreement=sum(int((ours.greedy == theirs.greedy).sum()) for ours, theirs in pairs) / positions,
            of_vocabulary=sums.shared / self._done,
        )


class _Sums:
    """What is added up, position by position."""

    def __init__(self) -> None:
        self.most = self.differences = self.kl = self.kl_most = self.shared = 0.0
        self.values = 0

    def add(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Two (positions, vocabulary) of log-probabilities."""
        for start in range(0, len(ours), 64):  # in float64 a large vocabulary takes a MB
            some = slice(start, start + 64)
            self._add(ours[some].double(), theirs[some].double())

    def _add(self, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        width = min(ours.shape[1], theirs.shape[1])
        if ours.shape[1] != theirs.shape[1]:
            self.shared += float(ours[:, :width].exp().sum())
            ours, theirs = (x[:, :width].log_softmax(dim=1) for x in (ours, theirs))
        else:
            self.shared += len(ours)
        # A token that neither can say (-inf in both) is no difference.
        difference = torch.where(ours == theirs, 0.0, ours - theirs)
        kl = torch.where(ours > -math.inf, ours.exp() * difference, 0.0).sum(dim=1)
        self.most = max(self.most, float(difference.abs().max()))
        self.differences += float(difference.abs().sum())
        self.values += difference.numel()
        self.kl += float(kl.sum())
        self.kl_most = max(self.kl_most, float(kl.max()))


def _thinned(rows: Sequence[Encoded]) -> list[Encoded]:
    """The rows with the labels alone at which whole distributions are compared; those without one are left out."""
    thinned = []
    for row, wanted in zip(rows, _compared(rows), strict=True):
        if wanted:
            places = _labelled(row)
            labels = [IGNORE] * len(row.labels)
            for place in (places[i] for i in wanted):
                labels[place] = row.labels[place]
            thinned.append(Encoded(row.input_ids, labels))
    return thinned


def _compared(rows: Sequence[Encoded]) -> list[list[int]]:
    """Of each row which of its labels, counted from 0: POSITIONS at most, spread evenly over those of all rows."""
    counts = [len(_labelled(row)) for row in rows]
    total = sum(counts)
    wanted = {i * total // POSITIONS for i in range(POSITIONS)} if total > POSITIONS else set(range(total))
    starts = accumulate(counts, initial=0)
    return [[i for i in range(count) if start + i in wanted] for start, count in zip(starts, counts, strict=False)]


def _labelled(row: Encoded) -> list[int]:
    return [i for i, label in enumerate(row.labels) if i and label != IGNORE]
