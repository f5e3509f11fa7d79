"""predictions.jsonl, made small enough for a page: every row, with texts cut only where the page would burst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts.measured import Answer, Prediction
from solotune.report.gathered import read_predictions

MOST_ROWS = 50_000
MOST_BYTES = 40_000_000
_CUTS = (20_000, 8_000, 4_000, 2_000, 1_000, 500, 250)
"""Characters that a text may have; tried in turn until the page holds all rows."""


class ShownAnswer(msgspec.Struct, frozen=True, array_like=True):
    """What one model did on a row."""

    text: str | None
    """None: the reference, to the letter."""
    loss: float | None
    """Nats a token; None for a row without assistant tokens."""
    tokens: int
    values: list[float | None]
    """Of the metrics, in the order of `Answers.metrics`."""
    choice: str | None


class CutAnswer(ShownAnswer, frozen=True, array_like=True):
    """One that wasn't finished after `evaluation.max_new_tokens`: a kind of its own, for most rows need no flag."""

    cut: bool = True


class ShownRow(msgspec.Struct, frozen=True, array_like=True):
    """A row as the page has it; a text that was cut is a list: its beginning, and how long it was."""

    id: str
    tags: list[int]
    messages: list[tuple[str, Any]]
    """(role, content) of all but the last."""
    reference: Any
    answers: list[ShownAnswer | None]
    """In the order of `Answers.models`."""


class Answers(msgspec.Struct, frozen=True):
    """All that the page knows of answers."""

    models: list[str]
    """`base`, `adapter`, then exported ones."""
    metrics: list[str]
    tags: list[tuple[str, int]]
    """A tag and its rows, most first."""
    rows: list[ShownRow]
    rows_in_all: int
    damaged: int
    """Lines that can't be read."""
    cut_at: int | None
    """Characters that are left of each longer text; None: none was cut."""


def answers(path: Path, most_rows: int = MOST_ROWS, most_bytes: int = MOST_BYTES) -> Answers | None:
    """The rows of predictions.jsonl, in its order; None where there are none.

    Args:
        path: the file.
        most_rows: of a longer file those whose loss changed most, to the worse and to the better, half of each.
        most_bytes: of all rows as JSON; beyond it long texts are cut.
    """
    if not path.exists():
        return None
    rows, rows_in_all, damaged = _read(path, most_rows)
    if not rows:
        return None
    models = ["base", "adapter", *dict.fromkeys(name for row in rows for name in row.artefacts)]
    metrics = list(dict.fromkeys(name for row in rows for name in (*row.base.metrics, *row.adapter.metrics)))
    tags = sorted(Counter(tag for row in rows for tag in dict.fromkeys(row.tags)).items(), key=lambda t: (-t[1], t[0]))
    numbers = {tag: number for number, (tag, _) in enumerate(tags)}
    cut_at = _cut_at(rows, most_bytes)
    shown = [_shown(row, models, metrics, numbers, cut_at) for row in rows]
    return Answers(models, metrics, tags, shown, rows_in_all, damaged, cut_at)


def _read(path: Path, most: int) -> tuple[list[Prediction], int, int]:
    """Rows, how many there are in all, and how many lines can't be read."""
    changes = [None if row is None else _change(row) for row in read_predictions(path)]
    by_change = sorted((change, number) for number, change in enumerate(changes) if change is not None)
    beyond = max(0, len(by_change) - most)
    middle = len(by_change) // 2 - beyond // 2
    wanted = {number for _, number in (*by_change[:middle], *by_change[middle + beyond :])}
    rows = [row for number, row in enumerate(read_predictions(path)) if row and number in wanted]
    return rows, len(by_change), len(changes) - len(by_change)


def _change(row: Prediction) -> float:
    """Of the loss, nats a token; above 0 the adapter is worse."""
    return (row.adapter.nll - row.base.nll) / max(row.base.tokens, 1)


def _cut_at(rows: Iterable[Prediction], most_bytes: int) -> int | None:
    lengths = Counter(len(text) for row in rows for text in _texts(row))
    for cut in (None, *_CUTS):
        if sum(min(length, cut or length) * n for length, n in lengths.items()) <= most_bytes:
            return cut
    return _CUTS[-1]


def _texts(row: Prediction) -> Iterator[str]:
    yield row.reference
    yield from (_content(message) for message in row.messages)
    yield from (a.answer for a in (row.base, row.adapter, *row.artefacts.values()) if a.answer != row.reference)


def _shown(
    row: Prediction, models: list[str], metrics: list[str], tags: dict[str, int], cut_at: int | None
) -> ShownRow:
    by_model: dict[str, Answer] = {"base": row.base, "adapter": row.adapter, **row.artefacts}

    def answer(one: Answer | None) -> ShownAnswer | None:
        if one is None:
            return None
        text = None if one.answer == row.reference else _cut(one.answer, cut_at)
        values = [_short(one.metrics.get(name)) for name in metrics]
        loss = _short(one.nll / one.tokens) if one.tokens else None
        return (CutAnswer if one.cut else ShownAnswer)(text, loss, one.tokens, values, one.choice)

    return ShownRow(
        row.id,
        [tags[tag] for tag in dict.fromkeys(row.tags)],
        [(str(message.get("role", "")), _cut(_content(message), cut_at)) for message in row.messages],
        _cut(row.reference, cut_at),
        [answer(by_model.get(name)) for name in models],
    )


def _content(message: dict[str, Any]) -> str:
    content = message.get("content", "")
    return content if isinstance(content, str) else msgspec.json.encode(content).decode()


def _cut(text: str, cut_at: int | None) -> Any:
    return text if cut_at is None or len(text) <= cut_at else (text[:cut_at], len(text))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
