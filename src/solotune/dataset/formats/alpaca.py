"""`alpaca`: {"instruction", "input", "output", "system"}; input and system may be absent or empty.

The user says the instruction and, after a blank line, the input. No "Below is an instruction…" is put around
them: the base model's chat template does the framing.
"""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, optional_text, path_of, row, text
from solotune.dataset.formats.raw_names import Origin, Turn

FIELDS = ("instruction", "input", "output", "system", *COMMON)

_BETWEEN = "\n\n"


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    asked = text(record, columns, "instruction")
    if given := _input(record, columns):
        asked = f"{asked}{_BETWEEN}{given}"
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": text(record, columns, "output")},
    ]
    if system := optional_text(record, columns, "system"):
        messages.insert(0, {"role": "system", "content": system})
    return row(record, columns, messages)


def origin(record: Record, columns: Columns) -> Origin:
    at = path_of(columns, "instruction")
    pieces: tuple[tuple[int, str], ...] = ()
    if _input(record, columns):
        start = len(text(record, columns, "instruction") + _BETWEEN)
        pieces = (0, at), (start, path_of(columns, "input"))
    turns = [Turn(at, "", "", pieces), Turn(path_of(columns, "output"), "", "")]
    if optional_text(record, columns, "system"):
        turns.insert(0, Turn(path_of(columns, "system"), "", ""))
    return Origin("$", turns)


def _input(record: Record, columns: Columns) -> str | None:
    given = optional_text(record, columns, "input")
    return None if given is None or given.isspace() else given
