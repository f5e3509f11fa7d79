"""How many fields of the reference JSON the prediction gets right, and how many it adds.

Range: 0..1, higher is better; 0 where the prediction is not JSON, None where the reference is not (JSON: as
`json_valid` has it).
Normalisation: both documents become leaves, each a path (keys and list indices) and a value; an empty object
or array is a leaf. A leaf counts when path and value agree. Key order and spacing do not matter, the order of
a list does. Numbers agree by value (40 and 40.0), and only with numbers: true is not 1, "40" is not 40.
Reference: F1 is 2·|shared leaves| / (|predicted leaves| + |reference leaves|), the field-level F1 of
information extraction (van Rijsbergen 1979, "Information Retrieval", chapter 7).
"""

from collections.abc import Hashable
from typing import Any

from solotune.metrics.json_valid import parse_json

Leaf = tuple[tuple[str | int, ...], str, Hashable]
"""Path, type and value; the type, since True == Decimal(1)."""


def json_fields_f1(prediction: str, reference: str) -> float | None:
    expected_document = parse_json(reference)
    if expected_document is None:
        return None
    predicted_document = parse_json(prediction)
    if predicted_document is None:
        return 0.0
    expected, predicted = leaves(expected_document), leaves(predicted_document)
    return 2 * len(expected & predicted) / (len(predicted) + len(expected))


def leaves(document: Any) -> frozenset[Leaf]:
    """What the document says; two have the same leaves when they differ in spacing and key order at most."""
    found: list[Leaf] = []
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]  # a list, since recursion has a limit
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting.extend(((*path, key), child) for key, child in value.items())
        elif isinstance(value, list) and value:
            waiting.extend(((*path, index), child) for index, child in enumerate(value))
        else:
            found.append((path, type(value).__name__, None if isinstance(value, dict | list) else value))
    return frozenset(found)
