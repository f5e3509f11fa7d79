"""How far one model is from another, token by token on the same rows: is what ships what was measured?

In two steps, since two models seldom fit into memory together: what the first finds is remembered on the disk, and
the second is held against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from solotune.artifacts.measured import Divergence
from solotune.console import Progress
from solotune.harness.held_out import HeldOut
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.likelihood import RowScore
from solotune.modeling.subject import Subject

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
        with Progress(f"{name}: scoring", len(held_out), "rows") as bar:
            scores = subject.score(held_out.encoded, bar.advance)
    pairs = list(zip(remembered.scores, scores, strict=True))
    agreeing = sum(int((ours.greedy == theirs.greedy).sum()) for ours, theirs in pairs)
    sums = _Sums()
    thinned = _thinned(held_out.encoded)
    kept = np.load(remembered.path, mmap_mode="r")
    done = 0
    with Progress(f"{name}: comparing distributions", len(thinned), "rows") as bar:
        for found in subject.log_probabilities(thinned):
            sums.add(torch.from_numpy(kept[done : done + len(found)].copy()), found)
            done += len(found)
            bar.advance()
    assert done == len(kept)
    return Divergence(
        positions=sum(theirs.tokens for _, theirs in pairs),
        max_logit_difference=sums.most,
        mean_logit_difference=sums.differences / sums.values,
        kl_mean=sums.kl / done,
        kl_max=sums.kl_most,
        greedy_agreement=agreeing / sum(theirs.tokens for _, theirs in pairs),
        of_vocabulary=sums.shared / done,
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
    """The rows with at most POSITIONS labels, spread evenly over all of theirs; those without one are left out."""
    labelled = [[i for i, label in enumerate(row.labels) if i and label != IGNORE] for row in rows]
    total = sum(map(len, labelled))
    wanted = {i * total // POSITIONS for i in range(POSITIONS)} if total > POSITIONS else None
    thinned = []
    for row, places in zip(rows, _kept(labelled, wanted), strict=True):
        if places:
            labels = [IGNORE] * len(row.labels)
            for place in places:
                labels[place] = row.labels[place]
            thinned.append(Encoded(row.input_ids, labels))
    return thinned


def _kept(labelled: Sequence[Sequence[int]], wanted: set[int] | None) -> Iterator[list[int]]:
    """Of each row the places whose number, counted over all rows, is wanted."""
    number = 0
    for places in labelled:
        yield [place for i, place in enumerate(places, start=number) if wanted is None or i in wanted]
        number += len(places)
