"""Every reason for which a raw line is left out: a stable code, what it means, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """Why a row is left out, and what to do about it."""

    means: str
    remedy: str


REASONS: dict[str, Reason] = {
    "invalid_utf8": Reason("the bytes are not UTF-8", "Save the file as UTF-8"),
    "line_too_long": Reason("the line is longer than 8 MiB", "Divide the row, or look for a lost line break"),
    "invalid_json": Reason("the line is not one JSON document", "Write one whole JSON object on each line"),
    "bom_inside": Reason("a byte order mark inside the file", "Remove it: it may stand at the start of a file only"),
    "invalid_csv": Reason("the record breaks the header or the quoting", "Repair its quotes and separators"),
    "nesting_too_deep": Reason("brackets are nested too deep to be read", "Flatten the row"),
    "duplicate_key": Reason("a key stands twice in one object", "Remove one of the two"),
    "missing_field": Reason("a required key is absent", "Add it"),
    "unknown_field": Reason("a key that the contract doesn't have", "Remove it or correct its spelling"),
    "wrong_type": Reason("a value of another type, or none of those allowed", "Write what is expected"),
    "bad_id": Reason("the id isn't 1 to 200 printable characters", "Give the row another id"),
    "duplicate_id": Reason("an earlier row, which says something else, has this id", "Give the row another id"),
    "empty_messages": Reason("there are no messages", "Add the turns, or remove the row"),
    "bad_role_order": Reason(
        "the turns don't alternate", "The order is: system (optional), user, assistant, user, assistant, …"
    ),
    "last_not_assistant": Reason("the last turn isn't the assistant's", "Add the answer, or cut what follows it"),
    "empty_content": Reason("a content is empty or white space only", "Write it, or remove the row"),
    "lone_surrogate": Reason("half a surrogate pair, which no text can hold", "Write the whole character"),
    "nul_character": Reason("a NUL character", "Remove it"),
    "control_character": Reason("a control character other than tab and line breaks", "Remove it"),
    "control_token": Reason(
        "text that is a control token of a chat model",
        "Store plain turns, not a rendered template; where it is meant as text, set dataset.control_tokens: as_text",
    ),
}
"""Reason code -> what it means. Codes are stable: people's scripts read them in quarantine.jsonl."""

NOTES = {
    "bom": "a byte order mark at the start of the file was passed over",
    "blank_line": "blank lines were passed over",
    "not_nfc": "rows with characters in pieces (not in Unicode form NFC) were kept as they are",
    "invisible_character": "rows with invisible or direction-changing characters were kept as they are",
    "control_token": "rows with the text of a control token were kept; to the model it is text",
    "id_collision": "rows were kept whose id differs from an earlier one in case or compatibility forms only",
}
"""What is reported and leaves no row out."""


class RowProblem(Exception):
    """A row that can't be used.

    Args:
        code: key of REASONS.
        what: what was found.
        at: JSON path, or the place in other words.
        remedy: what to do, where more can be said than the table says.
    """

    def __init__(self, code: str, what: str, at: str = "$", remedy: str | None = None) -> None:
        self.code, self.what, self.at, self.remedy = code, what, at, remedy
        super().__init__(f"{at}: {what}. {remedy or REASONS[code].remedy}")

    def moved(self, at: str, what: str | None = None) -> RowProblem:
        """The same problem, told of another place."""
        return RowProblem(self.code, what or self.what, at, self.remedy)


KINDS = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "list": "an array",
    "array": "an array",
    "dict": "an object",
    "object": "an object",
    "NoneType": "null",
}
"""What messages call a type, as JSON does; by its name in Python or msgspec."""


def wrong_type(wanted: str, got: str, at: str = "$", remedy: str | None = None) -> RowProblem:
    """A value of another type.

    Args:
        wanted: name of a type, or words.
        got: name of a type.
        at: JSON path.
        remedy: what to do; by default, to write what is wanted.
    """
    wanted = KINDS.get(wanted, wanted)
    return RowProblem("wrong_type", f"expected {wanted}, got {KINDS.get(got, got)}", at, remedy or f"Write {wanted}")


def shortened(text: str) -> str:
    """Text from data for a message: in quotation marks, its control characters escaped, of bounded length."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
