"""Rows into sequences of one length, several in each, without their seeing each other.

A pack is told apart by its position ids, which begin at 0 with each row: transformers builds a block-diagonal mask from
them when it gets no attention mask and no cache (`masking_utils.find_packed_sequence_indices`).
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from typing import Any, overload

import torch

from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.tokenised import TokenisedRows

_MULTIPLE = 8
"""Lengths are padded to a multiple of this: tensor cores work on tiles."""


def pack(lengths: Sequence[int], capacity: int, seed: int) -> list[list[int]]:
    """Distributes rows over packs: best fit, longest first; no row is cut, none is left out.

    Args:
        lengths: tokens of each row; none above `capacity`.
        capacity: tokens in a pack.
        seed: orders rows of one length, and the packs.

    Returns:
        Row numbers, a list for each pack.
    """
    order = list(range(len(lengths)))
    shuffle = random.Random(seed)
    shuffle.shuffle(order)
    order.sort(key=lambda i: -lengths[i])
    packs: list[list[int]] = []
    open_packs: list[tuple[int, int]] = []  # (free tokens, pack), sorted
    for row in order:
        assert lengths[row] <= capacity
        fitting = bisect.bisect_left(open_packs, (lengths[row], -1))
        if fitting == len(open_packs):
            free, chosen = capacity, len(packs)
            packs.append([])
        else:
            free, chosen = open_packs.pop(fitting)
        packs[chosen].append(row)
        left = free - lengths[row]
        if left:
            bisect.insort(open_packs, (left, chosen))
    for rows in packs:
        shuffle.shuffle(rows)
    shuffle.shuffle(packs)
    return packs


def join(rows: Sequence[Encoded]) -> dict[str, list[int]]:
    """One sequence out of several rows: `input_ids`, `labels`, `position_ids`, each of the summed length.

    The first label of each row is dropped: the position before it belongs to another row.
    """
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    for row in rows:
        ids += row.input_ids
        labels += [IGNORE, *row.labels[1:]]
        positions += range(len(row.input_ids))
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


class Sequences(Sequence[dict[str, list[int]]]):
    """Packs joined when they are asked for: what is in memory at a time is one batch, not the data set.

    Each has `rows`, too: which rows are in it, by their numbers in the split.

    Args:
        rows: encoded chats, or a view of them.
        packs: row numbers, a list for each sequence.
    """

    def __init__(self, rows: Sequence[Encoded], packs: Sequence[Sequence[int]]) -> None:
        self._rows, self._packs = rows, packs

    def __len__(self) -> int:
        return len(self._packs)

    def longest_first(self) -> list[int]:
        """Numbers of the sequences, those with the most tokens first."""
        tokens = [sum(len(self._rows[i].input_ids) for i in pack) for pack in self._packs]
        return sorted(range(len(tokens)), key=lambda i: -tokens[i])

    def most_rows(self, sequences: int) -> int:
        """How many rows that many sequences hold at most."""
        return sum(sorted((len(pack) for pack in self._packs), reverse=True)[:sequences])

    @property
    def order_sha256(self) -> str:
        """One hash over which rows are in which sequence, at which place."""
        return hashlib.sha256(json.dumps([self._numbers(pack) for pack in self._packs]).encode()).hexdigest()

    @overload
    def __getitem__(self, index: int) -> dict[str, list[int]]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequences: ...
    def __getitem__(self, index: int | slice) -> dict[str, list[int]] | Sequences:
        if isinstance(index, slice):
            return Sequences(self._rows, self._packs[index])
        chosen = self._packs[index]
        return {**join([self._rows[i] for i in chosen]), "rows": self._numbers(chosen)}

    def _numbers(self, pack: Sequence[int]) -> list[int]:
        return self._rows.rows[pack].tolist() if isinstance(self._rows, TokenisedRows) else list(pack)


def collate_fixed(sequences: Sequence[dict[str, Any]], tokens: int, most_rows: int, pad_id: int) -> dict[str, Any]:
    """Packs one behind the other in one sequence that always has the same shapes; no mask.

    What is left over is one more row, without labels.

    Args:
        sequences: what `Sequences` gives; together at most `tokens` long.
        tokens: of the result.
        most_rows: that a batch of this data can hold.

    Returns:
        `input_ids`, `labels`, `position_ids`: (1, tokens). `targets`: (tokens,), what each position should predict.
        `labelled`: the positions that should. `pack_ends`: (most_rows + 2,), int32: 0, where each row ends, and from
        there on where the last one does. `pack_extent`: rows, and tokens of the longest row, as numbers, since they
        are read on the processor. `real_tokens` and `rows` as in `collate`.
    """
    joined: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
    for sequence in sequences:
        for name in joined:
            joined[name] += sequence[name]
    real = len(joined["input_ids"])
    missing = tokens - real
    assert missing >= 0
    joined["input_ids"] += [pad_id] * missing
    joined["labels"] += [IGNORE] * missing
    joined["position_ids"] += range(missing)
    starts = [i for i, position in enumerate(joined["position_ids"]) if position == 0]
    ends = [*starts, tokens]
    assert len(ends) <= most_rows + 2
    longest = max(end - start for start, end in itertools.pairwise(ends))
    batch: dict[str, Any] = {name: torch.tensor([values]) for name, values in joined.items()}
    targets = [*joined["labels"][1:], IGNORE]
    batch["targets"] = torch.tensor(targets)
    # Found here: on a GPU their number would have to be waited for.
    batch["labelled"] = torch.tensor([i for i, target in enumerate(targets) if target != IGNORE], dtype=torch.int64)
    batch["pack_ends"] = torch.tensor([*ends, *([tokens] * (most_rows + 2 - len(ends)))], dtype=torch.int32)
    batch["pack_extent"] = (len(starts), longest)
    batch["real_tokens"] = torch.tensor(real)
    batch["rows"] = torch.tensor([number for s in sequences for number in s["rows"]], dtype=torch.int64)
    return batch


def collate(sequences: Sequence[dict[str, Any]], pad_id: int) -> dict[str, torch.Tensor]:
    """Stacks sequences into (batch, length) tensors; padding is one more row, without labels, at the end of each.

    `real_tokens`, a number, counts the tokens that aren't padding; `rows` has the numbers of all rows in the batch.
    """
    longest = max(len(s["input_ids"]) for s in sequences)
    length = -(-longest // _MULTIPLE) * _MULTIPLE
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
    for sequence in sequences:
        missing = length - len(sequence["input_ids"])
        batch["input_ids"].append([*sequence["input_ids"], *([pad_id] * missing)])
        batch["labels"].append([*sequence["labels"], *([IGNORE] * missing)])
        batch["position_ids"].append([*sequence["position_ids"], *range(missing)])
    tensors = {name: torch.tensor(values) for name, values in batch.items()}
    tensors["real_tokens"] = torch.tensor(sum(len(s["input_ids"]) for s in sequences))
    tensors["rows"] = torch.tensor([number for s in sequences for number in s.get("rows", ())], dtype=torch.int64)
    return tensors
