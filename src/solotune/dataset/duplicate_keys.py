"""Keys that stand twice in one JSON object. No fast parser reports them: all take the last value in silence."""

from __future__ import annotations

import json
from typing import Any

from solotune.dataset.reasons import RowProblem, shortened


class Object(dict[str, Any]):
    """A JSON object that remembers a key which it was given twice."""

    repeated: str | None = None


def keep_repeated(pairs: list[tuple[str, Any]]) -> Object:
    """A hook for `json.loads`."""
    made = Object(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        made.repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return made


def repeats_may_be_hidden(raw: bytes, encoded: bytes, quotes_made: int = 0) -> bool:
    """Whether a document that decoded well, or several, may repeat a key. Arguments as of `refuse_duplicate_keys`.

    A repeated key, however it is spelled, adds its own two quotation marks at least, and what is kept of the
    document has the same ones in both spellings, unless some are hidden as \\u0022.
    """
    return raw.count(b'"') != encoded.count(b'"') - quotes_made or b"\\u0022" in raw


def refuse_duplicate_keys(raw: bytes, encoded: bytes, quotes_made: int = 0) -> None:
    """Looks at the bytes of a document that decoded well; only where a count says so is it parsed again.

    Args:
        raw: the document as it was written.
        encoded: what it was decoded to, encoded again.
        quotes_made: quotation marks in `encoded` that aren't from `raw`.

    Raises:
        RowProblem: a key is repeated.
    """
    if raw == encoded or not repeats_may_be_hidden(raw, encoded, quotes_made):
        return
    found = duplicate_key(json.loads(raw, object_pairs_hook=keep_repeated, parse_int=str, parse_float=str))
    if found:
        raise found


def duplicate_key(value: Any, at: str = "$") -> RowProblem | None:
    """The first repeated key in what `json.loads` gave with the hook `keep_repeated`, the outermost first."""
    if isinstance(value, Object):
        if value.repeated is not None:
            key = value.repeated
            return RowProblem("duplicate_key", f"the key {shortened(key)} is there twice", step(at, key))
        items = [(step(at, key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{at}[{i}]", item) for i, item in enumerate(value)]
    else:
        return None
    for path, item in items:
        if problem := duplicate_key(item, path):
            return problem
    return None


def step(at: str, key: str) -> str:
    """The JSON path of a key's value."""
    return f"{at}.{key}" if key.isidentifier() and len(key) <= 60 else f"{at}[{shortened(key)}]"
