"""What a check found, and how findings are shown."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from solotune import known_errors
from solotune.console import safe, say

SCHEMA_VERSION = 1
"""Of the JSON; scripts/setup_wsl.sh --json has the same shape."""


@dataclass(frozen=True)
class Finding:
    """One check: FAIL would make a run fail, warn makes it slow or less safe, skip doesn't apply here."""

    name: str
    status: Literal["ok", "warn", "FAIL", "skip"]
    found: str
    fix: str = ""
    """Why it matters, and the command or edit that solves it."""


def checked(name: str, check: Callable[[], Finding]) -> Finding:
    """The check's finding; when it raises, that is what was found."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001  (drivers and libraries raise anything)
        return failed(name, error)


def failed(name: str, error: Exception, fix: str = "Look at what it says above; then report it") -> Finding:
    """An error as a finding, with its known cause and fix instead of `fix` where there are such."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
    known = known_errors.explain(text)
    return Finding(name, "FAIL", safe(" ".join(text.split())), f"{known.cause}. {known.fix}" if known else fix)


def show(groups: Mapping[str, Sequence[Finding]]) -> None:
    """Prints findings in aligned lines, the fix below what was found."""
    width = max(len(f.name) for group in groups.values() for f in group)
    for title, findings in groups.items():
        say(title)
        for f in findings:
            say(f"  {f.status:<4}  {f.name:<{width}}  {f.found}")
            if f.fix:
                say(f"  {'':<4}  {'':<{width}}  {f.fix}")
        say()


def as_json(findings: Sequence[Finding]) -> str:
    """Findings for a bug report."""
    kernel = platform.release()
    wsl = (1 if "Microsoft" in kernel else 2) if "microsoft" in kernel.lower() else None
    ready = all(f.status != "FAIL" for f in findings)
    report = {"schema_version": SCHEMA_VERSION, "ready": ready, "wsl": wsl, "checks": [asdict(f) for f in findings]}
    return json.dumps(report, indent=2, ensure_ascii=False)


def short(path: Path) -> str:
    """A path without the user's name, since reports are pasted in public."""
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) and home != Path("/") else str(path)
