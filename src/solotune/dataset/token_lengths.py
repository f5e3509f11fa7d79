"""How long rows are in tokens, how much of them is trained on, and which only look like control tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from solotune.config.schema import Split
from solotune.dataset.contract import Row
from solotune.dataset.stored import read_rows

_TRAIN = {"error": "train refuses them", "drop": "train leaves them out", "truncate": "train cuts them"}
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
    control_texts: tuple[tuple[str, int], ...] = ()
    """(text of a control token, rows whose contents hold it), the most frequent first. To the model it is text."""


def measure(
    path: Path, lengths: Sequence[int], trained_tokens: int, limit: int, control_tokens: Collection[str] = ()
) -> TokenLengths:
    """Sums up the lengths of a split file's rows.

    Args:
        path: the split's file.
        lengths: tokens of each row, in order.
        trained_tokens: tokens with a label, over all rows.
        limit: tokens that a sequence may have.
        control_tokens: the texts of the tokenizer's own.
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
        _control_texts(path, control_tokens),
    )


def fate_of_overlong(split: Split, on_overflow: str) -> str:
    """What becomes of rows that are longer than training.max_length, in words."""
    if split == "test":
        return "evaluate measures them whole"
    return f"with dataset.on_overflow: {on_overflow}, {_TRAIN[on_overflow]}"


def _control_texts(path: Path, control_tokens: Collection[str]) -> tuple[tuple[str, int], ...]:
    if not control_tokens:
        return ()
    longest_first = sorted(control_tokens, key=lambda text: (-len(text), text))
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    in_json = re.compile(b"|".join(re.escape(msgspec.json.encode(text)[1:-1]) for text in longest_first))
    decode, found = msgspec.json.Decoder(Row).decode, Counter[str]()
    with path.open("rb") as lines:
        for line in lines:
            if in_json.search(line):  # it may stand in the id or the tags
                found.update({text for m in decode(line).messages for text in pattern.findall(m.content)})
    return tuple(sorted(found.items(), key=lambda item: (-item[1], item[0])))


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
