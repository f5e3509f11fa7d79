"""How long rows are in tokens, and how much of them is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from solotune.dataset.stored import read_rows

TOO_LONG = {"error": "train refuses them", "drop": "train leaves them out", "truncate": "train cuts them"}
"""dataset.on_overflow -> what becomes of rows that are longer than training.max_length."""
_IDS_SHOWN = 5


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
    by_length: tuple[tuple[int, int], ...] = ()
    """(tokens, rows that have as many), ascending."""


def measure(path: Path, lengths: Sequence[int], trained_tokens: int, limit: int) -> TokenLengths:
    """Sums up the lengths of a split file's rows.

    Args:
        path: the split's file; read only for the ids of rows that are too long.
        lengths: tokens of each row, in order.
        trained_tokens: tokens with a label, over all rows.
        limit: tokens that a sequence may have.
    """
    total, ordered = sum(lengths), sorted(lengths)
    overlong = [index for index, length in enumerate(lengths) if length > limit]
    return TokenLengths(
        _nearest_rank(ordered, 0.50),
        _nearest_rank(ordered, 0.95),
        ordered[-1] if ordered else 0,
        trained_tokens / total if total else 0.0,
        len(overlong),
        _ids_at(path, overlong[:_IDS_SHOWN]),
        tuple(sorted(Counter(lengths).items())),
    )


def _ids_at(path: Path, indices: Sequence[int]) -> tuple[str, ...]:
    if not indices:
        return ()
    wanted, last = set(indices), max(indices)
    return tuple(row.id for i, row in enumerate(islice(read_rows(path), last + 1)) if i in wanted)


def _nearest_rank(ordered: list[int], share: float) -> int:
    """The smallest length that at least `share` of the rows don't exceed."""
    if not ordered:
        return 0
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
