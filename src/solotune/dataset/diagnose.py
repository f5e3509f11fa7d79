"""Why a line failed: the slow second look, in a fixed order.

Encoding, JSON, depth, surrogates, repeated keys, types.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from solotune.dataset.duplicate_keys import duplicate_key, keep_repeated, refuse_duplicate_keys, step
from solotune.dataset.reasons import RowProblem, shortened, wrong_type

_ALLOWED = {"$": "id, messages, meta", "$.meta": "source, tags, split, group"}
_VALUES = {".role": "system, user, assistant", ".split": "train, val, test"}
_AT = re.compile(r" - at `(\$[^`]*)`\Z")
_TYPES = re.compile("Expected `(.*)`, got `(.*)`")
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
        raise wrong_type("object", type(value).__name__)
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
            parse_int=_Number,
            parse_float=_Number,
            object_pairs_hook=keep_repeated,
        )
        surrogate, repeated = _path_of(value, _has_surrogate), duplicate_key(value)
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
        problem = problem_of_type(error)
        # msgspec names no key of an object without a type, and there only a number can fail.
        return problem.moved(_path_of(value, _is_out_of_range) or problem.at) if "[...]" in problem.at else problem
    except (msgspec.DecodeError, RecursionError) as error:
        return RowProblem("invalid_json", str(error), "line")
    raise AssertionError("the line decodes on second thoughts")


def problem_of_type(error: msgspec.ValidationError) -> RowProblem:
    """msgspec's message as a reason code, a JSON path and a remedy."""
    found = _AT.search(str(error))
    at = found[1] if found else "$"
    what = str(error)[: found.start()] if found else str(error)
    key = _between_backticks(what)
    if what.startswith("Object missing required field"):
        return RowProblem("missing_field", f"the key {key} is missing", at)
    if what.startswith("Object contains unknown field"):
        allowed = _ALLOWED.get(at, "role, content")
        known = f"Keys here are {allowed}: remove it or correct its spelling"
        if at == "$":
            known += "; or say with dataset.columns which keys to read, and the others are left out"
        return RowProblem("unknown_field", f"the key {key} isn't part of a row", at, known)
    if what in ("Number out of range", "Integer value out of range"):
        return RowProblem("invalid_json", "a number is out of range", at, "Write numbers that a float can hold")
    values = next((allowed for key, allowed in _VALUES.items() if at.endswith(key)), None)
    remedy = f"Write one of {values}" if values else None
    if what.startswith("Invalid enum value"):
        value = ast.literal_eval(what.removeprefix("Invalid enum value "))
        return RowProblem("wrong_type", f"invalid value {shortened(value)}", at, remedy)
    if types := _TYPES.fullmatch(what):
        return wrong_type(types[1], types[2], at, remedy)
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


class _Number(str):
    """A number as it is written, whatever its size."""

    __slots__ = ()


def _has_surrogate(value: Any) -> bool:
    return isinstance(value, str) and _SURROGATE.search(value) is not None


def _is_out_of_range(value: Any) -> bool:
    if not isinstance(value, _Number):
        return False
    try:
        msgspec.json.decode(value.encode())
    except msgspec.DecodeError:
        return True
    return False


def _path_of(value: Any, is_it: Callable[[Any], bool], at: str = "$") -> str | None:
    """The JSON path of the first value that `is_it`, or of the object with the first such key."""
    if isinstance(value, list):
        paths = (_path_of(item, is_it, f"{at}[{i}]") for i, item in enumerate(value))
        return next((path for path in paths if path), None)
    if isinstance(value, dict):
        for key, item in value.items():
            if is_it(key):
                return at
            if p := _path_of(item, is_it, step(at, key)):
                return p
        return None
    return at if is_it(value) else None
