"""What a page about data and a page about a run have in common: how they are rendered, and how numbers look."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from solotune.console import safe

if TYPE_CHECKING:
    import jinja2


def environment(packages: Sequence[str] = ()) -> jinja2.Environment:
    """Templates of this package, behind those of `packages`; whatever they print is escaped, without exception."""
    import jinja2  # a tenth of a second; only whoever writes a page pays for it

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: source(name, packages)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        safe=_refuse_to_unescape,  # Jinja's own `safe` turns escaping off; nothing here is ever that safe
        shown=safe,
        number=lambda n: f"{n:,}",
        share=lambda part, whole: f"{part / whole:.1%}" if whole else "",
        bytes=_bytes,
    )
    return made


def source(name: str, packages: Sequence[str] = ()) -> str:
    """The text of a template, style sheet or script."""
    found = (files(package).joinpath(name) for package in (*packages, __package__))
    return next(file for file in found if file.is_file()).read_text("utf-8")


def _refuse_to_unescape(_: object) -> str:
    raise AssertionError("nothing in a page is taken as markup")


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
