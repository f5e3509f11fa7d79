"""What becomes of rows that are longer than training.max_length (dataset.on_overflow)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solotune.config.schema import RunConfig
from solotune.modeling.tokenised import TokenisedRows


def kept_tokens(rows: TokenisedRows, config: RunConfig) -> dict[int, int]:
    """For each row that is too long, how many of its first tokens are trained on; 0: the row is left out."""
    limit, cuts = config.training.max_length, config.dataset.on_overflow == "truncate"
    overlong = np.flatnonzero(rows.lengths > limit).tolist()
    return {index: cut(rows.spans(index), limit) if cuts else 0 for index in overlong}


def cut(spans: Sequence[tuple[int, int]], limit: int) -> int:
    """Where to cut a row, so that what is left teaches nothing wrong.

    After the last answer that fits whole, with its end of turn. If none does, at the limit, in the middle of the first
    answer: its end of turn is gone too, so the model isn't taught to stop there. 0 if not even its first token fits.

    Args:
        spans: start and end of each answer with its end of turn, in order.
        limit: tokens that may stay.
    """
    whole = [end for _, end in spans if end <= limit]
    if whole:
        return whole[-1]
    return limit if spans[0][0] < limit else 0
