"""How long rows are in tokens, and how much of them is trained on."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from solotune.dataset.contract import Message
from solotune.dataset.stored import read_rows

_IGNORED = -100
_IDS_SHOWN = 5


class Encoded(Protocol):
    """A chat as token ids; a label of -100 marks what isn't trained."""

    @property
    def input_ids(self) -> list[int]: ...
    @property
    def labels(self) -> list[int]: ...


@dataclass(frozen=True)
class TokenLengths:
    """Of the rows of one split; all zero for none."""

    p50: int
    p95: int
    longest: int
    trained_share: float
    """Tokens with a label over all tokens."""
    overlong: int
    """Rows that have more tokens than the limit."""
    overlong_ids: tuple[str, ...]
    """The first few of them."""


def measure(
    path: Path, encode: Callable[[Sequence[Message]], Encoded], limit: int, advance: Callable[[int], None]
) -> TokenLengths:
    """Encodes every row of a split file.

    Args:
        path: the split's file.
        encode: chat to tokens.
        limit: tokens that a sequence may have.
        advance: told of each row.
    """
    lengths, trained, overlong = array("L"), 0, 0
    ids: list[str] = []
    for row in read_rows(path):
        encoded = encode(row.messages)
        length = len(encoded.input_ids)
        lengths.append(length)
        trained += len(encoded.labels) - encoded.labels.count(_IGNORED)
        if length > limit:
            overlong += 1
            if len(ids) < _IDS_SHOWN:
                ids.append(row.id)
        advance(1)
    total, ordered = sum(lengths), sorted(lengths)
    return TokenLengths(
        _nearest_rank(ordered, 0.50),
        _nearest_rank(ordered, 0.95),
        ordered[-1] if ordered else 0,
        trained / total if total else 0.0,
        overlong,
        tuple(ids),
    )


def _nearest_rank(ordered: list[int], share: float) -> int:
    """The smallest length that at least `share` of the rows don't exceed."""
    if not ordered:
        return 0
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
