"""A problem of a converted row, told in the names of its raw record. Only bad rows come here."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from solotune.dataset.formats.fields import Columns, Record, path_of, tags_of
from solotune.dataset.reasons import RowProblem, shortened

_TURN = re.compile(r"\$\.messages\[(-?\d+)\](.*)")
_META = re.compile(r"\$\.meta\.(\w+)(.*)")
_CHARACTER = re.compile(r" at character (\d+)\Z")


class Turn(NamedTuple):
    """Where a message stands in the raw record."""

    at: str
    role: str = ".role"
    """What follows `at` in the path of its role; "" where the raw record says no role."""
    content: str = ".content"
    pieces: tuple[tuple[int, str], ...] = ()
    """Of a content that was put together: with which character each piece begins, and the path of that piece."""


class Origin(NamedTuple):
    """Where the messages of a converted row stand in the raw record."""

    messages: str
    turns: list[Turn]


def in_raw_names(
    problem: RowProblem, record: Record, columns: Columns, origin: Origin, fields: Collection[str]
) -> RowProblem:
    """The same problem, its path that of the raw record.

    Args:
        problem: what the contract found in the converted row.
        record: the raw record.
        columns: `dataset.columns`.
        origin: what the format says of this record.
        fields: those that the format reads.
    """
    if found := _TURN.fullmatch(problem.at):
        return _of_turn(problem, origin.turns[int(found[1])], found[2])
    if found := _META.fullmatch(problem.at):
        return _of_meta(problem, record, columns, found[1] if found[1] in fields else "")
    raw = {
        "$.messages": origin.messages,
        "$.meta": path_of(columns, "meta"),
        "$.id": path_of(columns, "id"),
    }
    return problem.moved(raw.get(problem.at, problem.at))


def _of_turn(problem: RowProblem, turn: Turn, part: str) -> RowProblem:
    character = _CHARACTER.search(problem.what)
    if part == ".content" and turn.pieces and character:
        number = int(character[1])
        start, path = max(piece for piece in turn.pieces if piece[0] <= number)
        return problem.moved(path, f"{problem.what[: character.start()]} at character {number - start}")
    return problem.moved(turn.at + {".role": turn.role, ".content": turn.content}.get(part, part))


def _of_meta(problem: RowProblem, record: Record, columns: Columns, flat: str) -> RowProblem:
    """Of a key in meta, or of the column `flat` where that has a value: it goes before."""
    inside = problem.at.removeprefix("$.meta")
    given = record.get(columns.get(flat, flat)) if flat else None
    if given is None or given == "":
        return problem.moved(path_of(columns, "meta") + inside)
    at = path_of(columns, flat)
    index = inside.removeprefix(f".{flat}")
    if flat == "tags" and isinstance(given, str) and index:
        tag = tags_of(given)[int(index.strip("[]"))]
        return problem.moved(at, f"{problem.what} of the tag {shortened(tag)}")
    return problem.moved(at + index)
