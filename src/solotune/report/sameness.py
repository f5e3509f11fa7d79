"""Is the run the same when it is made again? What `verify`, `reproduce` and each resume left in its manifest."""

from __future__ import annotations

from dataclasses import dataclass

from solotune.artifacts.run_manifest import Reproduction, RunManifest, Verdict, Verification
from solotune.console import counted


@dataclass(frozen=True)
class Sameness:
    """Verdicts, and what goes with them."""

    said: str
    verdicts: list[tuple[str, Verdict | None]]
    """Which training was compared; None: it couldn't be."""
    notes: list[str]


def sameness(manifest: RunManifest) -> Sameness:
    """What is known of it."""
    notes = [f"Not promised to be the same: {what}." for what in manifest.not_covered]
    verdicts: list[tuple[str, Verdict | None]] = []
    said = ""
    if found := manifest.verification:
        said = f"`verify` made three trainings of {counted(found.steps, 'step')} of this config on {found.at[:10]}."
        verdicts += _of_verify(found)
        notes += [f"Not as it was when the run began: {what}." for what in found.differs_today]
    if again := manifest.reproduction:
        verdicts.append((f"this run beside {again.of}", again.training))
        notes += _of_reproduce(again)
    for entry in manifest.resumes:
        differed = "; ".join(map(str, entry.get("differed") or ()))
        differing = f"; not as before: {differed}" if differed else ""
        notes.append(f"Resumed at {entry.get('at', '?')} from step {entry.get('from_step', '?')}{differing}.")
    if not verdicts:
        notes.append(f"Not known yet: `invoke verify --run {manifest.run_id}` trains a little of it twice.")
    return Sameness(said, verdicts, notes)


def _of_verify(found: Verification) -> list[tuple[str, Verdict | None]]:
    return [
        ("made twice", found.rerun),
        (f"stopped at step {found.resumed_at} and resumed", found.resume),
        ("as the run itself", found.original),
    ]


def _of_reproduce(again: Reproduction) -> list[str]:
    compared = {
        "the adapter": again.adapter_equal,
        "what was measured": again.report_equal,
        "what was exported": again.export_equal,
    }
    words = [f"{what} is {'the same' if equal else 'another'}" for what, equal in compared.items() if equal is not None]
    return [
        f"Made again after {again.of}: {', '.join(words)}.",
        *(f"Exported again: {what}." for what in again.export_differs),
        *(f"Not as it was when that one began: {what}." for what in again.differs_today),
    ]
