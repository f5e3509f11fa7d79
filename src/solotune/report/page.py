"""One file that asks for nothing: template, style, scripts and data, under a policy that lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from solotune import __version__
from solotune.console import as_started, counted, duration, safe
from solotune.dataset.report.page import environment, source
from solotune.report.verdict import signed

if TYPE_CHECKING:
    import jinja2
    import markupsafe

GENERATOR = f"solotune {__version__}"
_STYLES = ("page.css", "report.css")
_IN_SCRIPTS = {"<": b"\\u003c", ">": b"\\u003e", "&": b"\\u0026", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}


def render(template: str, scripts: Sequence[str], data: Any, **context: Any) -> str:
    """The page.

    Args:
        template: its file.
        scripts: files of this package, run in this order.
        data: what they find as `data`; any text in it stays text.
        context: what the template shows.
    """
    style = "\n".join(source(name, [__package__]) for name in _STYLES)
    script = "\n".join(['"use strict";', *(source(name, [__package__]) for name in scripts)])
    rules = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    shown = _environment().get_template(template)
    parts = {"style": _ours(style), "script": _ours(script), "data": _ours(in_script(data).decode())}
    return shown.render(generator=GENERATOR, policy="; ".join(rules), **parts, **context)


def in_script(data: Any) -> bytes:
    """JSON without a character that could end the element around it."""
    text = msgspec.json.encode(data)
    for character, escape in _IN_SCRIPTS.items():
        text = text.replace(character.encode(), escape)
    return text


def _ours(text: str) -> markupsafe.Markup:
    """Not escaped again: our own files, and JSON that has no markup left."""
    import markupsafe

    return markupsafe.Markup(text)  # noqa: S704


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _lines(text: str) -> str:
    """A text of several lines; what doesn't print is shown as escapes."""
    return "\n".join(safe(line, len(line)) for line in text.split("\n"))


@cache
def _environment() -> jinja2.Environment:
    made = environment([__package__])
    made.filters.update(
        command=as_started, counted=counted, duration=duration, lines=_lines, signed=signed, split=str.split
    )
    return made
