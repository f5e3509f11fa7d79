"""Every key as a Markdown table: `python -m solotune.config.reference` prints what stands in the README."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from solotune.config.schema import RunConfig, Section


def markdown() -> str:
    """A heading and a table for the run's own keys and for each section, in the schema's order."""
    parts = [_table("", RunConfig)]
    for name, field in RunConfig.model_fields.items():
        section = _section(field.annotation)
        if section:
            parts.append(f"**`{name}`**: {inspect.getdoc(section)}\n\n{_table(name, section)}")
    return "\n\n".join(parts)


def _table(prefix: str, section: type[Section]) -> str:
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *_lines(prefix, section)])


def _lines(prefix: str, section: type[Section]) -> Iterator[str]:
    """A line for each key; a section within a section follows the key that holds it."""
    for name, field in section.model_fields.items():
        inner = _section(field.annotation)
        if inner and not prefix:
            continue
        key = f"{prefix}.{name}" if prefix else name
        if not isinstance(field.default, Section):
            yield f"| `{key}` | {_default(field)} | {_meaning(field)} |"
        if inner:
            yield from _lines(key, inner)


def _section(annotation: Any) -> type[Section] | None:
    candidates: Iterator[Any] = iter((annotation, *get_args(annotation)))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    return f"`{value}`"


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    print(markdown())
