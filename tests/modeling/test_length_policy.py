"""What becomes of rows that are too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solotune.modeling.length_policy import cut


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (40, 30),  # both answers fit
        (30, 30),
        (29, 15),  # the second one doesn't: its turn goes whole
        (15, 15),
        (14, 14),  # the first one is cut, without its end of turn
        (11, 11),
        (10, 0),  # not a token of it fits
    ],
)
def test_whole_turns_stay_else_the_beginning_of_the_first_answer(limit: int, kept: int) -> None:
    assert cut([(10, 15), (20, 30)], limit) == kept


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), limit=st.integers(1, 60)
)
def test_what_is_left_fits_and_has_a_trained_token(sizes: list[tuple[int, int]], limit: int) -> None:
    spans, at = [], 0
    for gap, size in sizes:
        spans.append((at + gap, at + gap + size))
        at += gap + size
    kept = cut(spans, limit)
    assert kept <= limit
    if kept:
        trained = sum(max(0, min(end, kept) - start) for start, end in spans)
        assert trained > 0
        # A cut within an answer happens in the first one only; any other ends with its end of turn.
        assert kept in [end for _, end in spans] or (kept == limit and kept < spans[0][1])
    else:
        assert spans[0][0] >= limit
