"""Rows into sequences of one length, several in each, without their seeing each other.

A pack is told apart by its position ids, which begin at 0 with each row: transformers builds a block-diagonal mask from
them when it gets no attention mask and no cache (`masking_utils.find_packed_sequence_indices`).
"""

from __future__ import annotations

import bisect
import hashlib
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
