"""Whether the prediction is one JSON document, as a strict parser reads it.

Range: 0 or 1, higher is better; applies to every row, and the reference does not matter.
Normalisation: none. The whole text must be one object or array: a bare number or string, a Markdown fence or
a word before or after fail it, and so do NaN, Infinity and a key given twice.
Reference: RFC 8259 (whose limits on nesting and on the range of numbers are here Python's recursion limit and
that of `decimal`), and RFC 7493 (I-JSON) for the unique keys.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import Any


def json_valid(prediction: str, reference: str) -> float:
    return float(parse_json(prediction) is not None)


def parse_json(text: str) -> dict[str, Any] | list[Any] | None:
    """The document, its numbers as Decimal; None when the text is not a JSON object or array."""
    try:
        document = read_json(text)
    except ValueError:
        return None
    return document if isinstance(document, dict | list) else None


def read_json(text: str) -> Any:
    """The value that the whole text is, its numbers as Decimal.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(
            text,
            # Decimal keeps every digit and takes any count of them; int refuses more than 4300.
            parse_int=Decimal,
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_keys,
        )
    except (RecursionError, InvalidOperation) as error:
        raise ValueError("beyond what is read") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key is given twice")
    return fields
