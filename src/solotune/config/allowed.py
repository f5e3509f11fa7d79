"""What the schema allows, in words: read from pydantic's JSON schema, so that no message repeats a bound."""

from __future__ import annotations

from functools import cache
from typing import Any

from solotune.config.schema import RunConfig

Path = tuple[str | int, ...]
Option = dict[str, Any]

_SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def options(path: Path) -> list[Option]:
    """The JSON schemas of which the value at `path` must fit one."""
    found = [_schema()]
    for part in path:
        inner: list[Option] = []
        for option in found:
            if isinstance(part, int):
                inner += [option["items"]] if "items" in option else []
            elif part in option.get("properties", {}):
                inner.append(option["properties"][part])
            elif isinstance(option.get("additionalProperties"), dict):
                inner.append(option["additionalProperties"])
        found = [_resolved(member) for option in inner for member in option.get("anyOf", [option])]
    return found


def in_words(path: Path) -> str:
    """`integer >= 16`, `list of text or null`."""
    return " or ".join(_words(option) for option in options(path))


def choices(path: Path) -> list[str]:
    """The words of which the value must be one."""
    return [word for option in options(path) for word in _choices(option)]


def takes_numbers(path: Path) -> bool:
    return any(option.get("type") in ("integer", "number") for option in options(path))


def keys(section: Path) -> list[str]:
    """The keys that a section knows; none for a mapping whose keys are free."""
    return [key for option in options(section) for key in option.get("properties", {})]


def all_keys() -> list[Path]:
    """Every key of a config, top level first."""
    top = keys(())
    return [(name,) for name in top] + [(name, key) for name in top for key in keys((name,))]


def required(section: Path) -> list[str]:
    return [key for option in options(section) for key in option.get("required", [])]


def description(path: Path) -> str:
    """The field's docstring."""
    *section, name = path
    field = next(option["properties"][name] for option in options(tuple(section)))
    return str(field.get("description", in_words(path)))


@cache
def _schema() -> Option:
    return RunConfig.model_json_schema()


def _resolved(option: Option) -> Option:
    reference = option.get("$ref")
    if reference is None:
        return option
    found: Option = _schema()["$defs"][reference.rpartition("/")[2]]
    return found


def _choices(option: Option) -> list[str]:
    values = option.get("enum", [option["const"]] if "const" in option else [])
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in values]


def _words(option: Option) -> str:
    if "properties" in option:
        return f"mapping with keys of {', '.join(option['properties'])}"
    if "anyOf" in option:
        return " or ".join(map(_words, option["anyOf"]))
    match option.get("type"):
        case _ if choices := _choices(option):
            words = ", ".join(choices)
        case "array":
            words = f"list of {_words(option['items'])}" + (", at least one" if option.get("minItems") else "")
        case "object":
            values = option["additionalProperties"]
            words = f"mapping of names to {_words(values)}" if isinstance(values, dict) else "mapping"
        case "string":
            words = f"text like {option['pattern']}" if "pattern" in option else "text"
        case "boolean":
            words = "true, false"
        case kind:
            bounds = [f"{sign} {_number(option[name])}" for name, sign in _SIGNS.items() if name in option]
            words = f"{kind} {' and '.join(bounds)}".strip()
    return words


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)
