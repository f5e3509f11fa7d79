"""Why a line failed: the slow second look, in a fixed order.

Encoding, JSON, depth, surrogates, repeated keys, types.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec

from solotune.dataset.duplicate_keys import duplicate_key, keep_repeated, refuse_duplicate_keys, step
from solotune.dataset.reasons import RowProblem, shortened

_ALLOWED = {"$": "id, messages, meta", "$.meta": "source, tags, split, group"}
_SURROGATE = re.compile("[\ud800-\udfff]")


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a line, of whatever layout.

    Raises:
        RowProblem: no JSON, or no object.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise problem_of(raw, dict) from None
    try:
        refuse_duplicate_keys(raw, msgspec.json.encode(value))
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise RowProblem("wrong_type", f"expected an object, got {type(value).__name__}")
    return value


def problem_of(raw: bytes, kind: type[Any]) -> RowProblem:
    """What keeps `raw` from being a `kind`. Call it for bytes that failed to decode."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return RowProblem("invalid_utf8", f"byte 0x{raw[error.start]:02x} at position {error.start}", "line")
    try:
        # The stdlib takes lone surrogates, and any number; msgspec takes neither.
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=str,
            parse_float=str,
            object_pairs_hook=keep_repeated,
        )
        surrogate, repeated = _path_of_surrogate(value, "$"), duplicate_key(value)
    except RecursionError:
        return _too_deep()
    except ValueError as error:
        return _not_json(text, error)
    found = RowProblem("lone_surrogate", "half a surrogate pair", surrogate) if surrogate else repeated
    if found:
        return found
    try:
        msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        return problem_of_type(error)
    except (msgspec.DecodeError, RecursionError) as error:
        return RowProblem("invalid_json", str(error), "line")
    raise AssertionError("the line decodes on second thoughts")


def problem_of_type(error: msgspec.ValidationError) -> RowProblem:
    """msgspec's message as a reason code, a JSON path and a remedy."""
    what, _, path = str(error).partition(" - at `")
    at = path.removesuffix("`") or "$"
    key = _between_backticks(what)
    if what.startswith("Object missing required field"):
        return RowProblem("missing_field", f"the key {key} is missing", at)
    if what.startswith("Object contains unknown field"):
        allowed = _ALLOWED.get(at, "role, content")
        remedy = f"Keys here are {allowed}: remove it or correct its spelling"
        if at == "$":
            remedy += "; or say with dataset.columns which keys to read, and the others are left out"
        return RowProblem("unknown_field", f"the key {key} isn't part of a row", at, remedy)
    if what == "Number out of range":
        return RowProblem("invalid_json", "a number is out of range", at, "Write numbers that a float can hold")
    if what.startswith("Invalid enum value"):
        allowed = "train, val, test" if at.endswith(".split") else "system, user, assistant"
        return RowProblem("wrong_type", what.lower().replace("enum ", ""), at, f"Write one of {allowed}")
    return RowProblem("wrong_type", what[:1].lower() + what[1:].replace("`", ""), at)


def _between_backticks(text: str) -> str:
    found = re.search("`(.*)`", text, re.DOTALL)
    return shortened(found[1] if found else "")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


def _too_deep() -> RowProblem:
    return RowProblem("nesting_too_deep", "too many brackets inside each other", "line")


def _not_json(text: str, error: ValueError) -> RowProblem:
    what = str(error)
    if isinstance(error, json.JSONDecodeError):
        if text.startswith("\ufeff") or text[error.pos : error.pos + 1] == "\ufeff":
            return RowProblem("bom_inside", f"U+FEFF at character {error.pos}", "line")
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            what = f"the line ends too early ({error.msg}, character {error.pos})"
        else:
            what = f"{error.msg} at character {error.pos}"
    return RowProblem("invalid_json", what, "line")


def _path_of_surrogate(value: Any, at: str) -> str | None:
    """The JSON path of the first lone surrogate in a decoded value."""
    if isinstance(value, str):
        return at if _SURROGATE.search(value) else None
    if isinstance(value, list):
        paths = (_path_of_surrogate(item, f"{at}[{i}]") for i, item in enumerate(value))
        return next((path for path in paths if path), None)
    if isinstance(value, dict):
        for key, item in value.items():
            if _SURROGATE.search(key):
                return at
            if p := _path_of_surrogate(item, step(at, key)):
                return p
    return None
