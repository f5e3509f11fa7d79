"""Ways to look at a page: options of a Playwright context."""

from __future__ import annotations

from typing import Any

DARK: dict[str, Any] = {"color_scheme": "dark"}


def wide(width: int) -> dict[str, Any]:
    """A window of that many pixels; below 600 it is a phone's."""
    phone = width < 600
    return {"viewport": {"width": width, "height": 900}, "is_mobile": phone, "has_touch": phone}


PHONE = wide(360)
