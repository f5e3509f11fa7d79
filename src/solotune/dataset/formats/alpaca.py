"""`alpaca`: {"instruction", "input", "output", "system"}; input and system may be absent or empty.

The user says the instruction and, after a blank line, the input. No "Below is an instruction…" is put around
them: the base model's chat template does the framing.
"""

from __future__ import annotations

from typing import Any

from solotune.dataset.formats.fields import COMMON, Columns, Record, optional_text, row, text

FIELDS = ("instruction", "input", "output", "system", *COMMON)


def convert(record: Record, columns: Columns) -> dict[str, Any]:
    asked = text(record, columns, "instruction")
    if (given := optional_text(record, columns, "input")) and not given.isspace():
        asked = f"{asked}\n\n{given}"
    messages = [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": text(record, columns, "output")},
    ]
    if system := optional_text(record, columns, "system"):
        messages.insert(0, {"role": "system", "content": system})
    return row(record, columns, messages)
