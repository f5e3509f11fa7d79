"""What the template writes before an answer: would a model say it by itself, and what does it weigh in the loss?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from solotune.artifacts.measured import Opening, OpeningSaid
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Measured
from solotune.modeling.likelihood import RowScore


def opening_of(measured: Mapping[str, Measured], held_out: HeldOut) -> Opening | None:
    """What each model makes of it; None where no row has one (`HeldOut.opening`)."""
    places = [_place(held_out, i) for i in range(len(held_out))]
    if not any(place.ids for place in places):
        return None
    (ids, _), *_ = Counter(tuple(place.ids) for place in places if place.ids).most_common(1)
    return Opening(
        text="".join(held_out.encoder.token_bytes(i).decode(errors="replace") for i in ids),
        tokens=sum(len(place.ids) for place in places),
        models={name: _said(one.scores, [places[i] for i in one.rows]) for name, one in measured.items()},
    )


class _Place(NamedTuple):
    """Where a row's opening stands among its labelled tokens."""

    ids: list[int]
    """Empty where there is none, or where its last token took in the beginning of the answer."""
    start: int


def _place(held_out: HeldOut, row: int) -> _Place:
    spans = held_out.encoded.spans(row)
    start, opening = spans[-1][0], held_out.opening(row)
    before = sum(end - max(first, 1) for first, end in spans[:-1])  # a row's first token is never scored
    stands = held_out.encoded.tokens(row).ids[start : start + len(opening)] == opening
    return _Place(opening if stands else [], before)


def _said(scores: Sequence[RowScore], places: Sequence[_Place]) -> OpeningSaid:
    pairs = list(zip(scores, places, strict=True))
    nll = math.fsum(score.nll - math.fsum(_part(score, place)) for score, place in pairs)
    tokens = sum(score.tokens - len(place.ids) for score, place in pairs)
    by_itself = sum(
        bool(place.ids) and score.greedy[place.start : place.start + len(place.ids)].tolist() == place.ids
        for score, place in pairs
    )
    return OpeningSaid(sum(bool(place.ids) for _, place in pairs), by_itself, nll / max(tokens, 1))


def _part(score: RowScore, place: _Place) -> Iterator[float]:
    yield from score.token_nll[place.start : place.start + len(place.ids)].tolist()
