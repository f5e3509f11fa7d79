"""What was exported of a run, made again and compared."""

from __future__ import annotations

from solotune.artifacts.measured import Artefact, ExportCommand, ExportRecord

_ROWS = "export.proof_examples="


def commands_of(record: ExportRecord, run_id: str) -> list[list[str]]:
    """The commands that export the same of another run, in their order.

    One that made nothing but the adapter is left out where another follows: every export makes the adapter, too.
    """
    making = [one for one in record.commands if one.merge or one.gguf] or record.commands[:1]
    return [
        [
            *("export", "--run", run_id),
            *(["--merge"] if one.merge else []),
            *(["--merge-base", one.merge_base] if one.merge and one.merge_base else []),
            *(["--gguf", ",".join(one.gguf)] if one.gguf else []),
            *(word for value in _overrides(record, one, is_first=one is making[0]) for word in ("--set", value)),
        ]
        for one in making
    ]


def _overrides(record: ExportRecord, one: ExportCommand, *, is_first: bool) -> list[str]:
    """Those of a command; on how many rows is said by the first alone, because all that follows takes the same."""
    others = [value for value in one.overrides if not value.startswith(_ROWS)]
    return [*others, f"{_ROWS}{record.examples}"] if is_first and record.examples else others


def differing_exports(first: ExportRecord, second: ExportRecord | None) -> list[str]:
    """In what two exports differ, a line each; a card names its run, so it can't be the same."""
    theirs = second.artefacts if second else {}
    found = []
    for name, one in first.artefacts.items():
        other = theirs.get(name)
        found += [f"{name}: {what}" for what in (_differing(one, other) if other else ["wasn't made again"])]
    return found


def _differing(one: Artefact, other: Artefact) -> list[str]:
    facts: dict[str, tuple[object, object]] = {
        "merged into": (one.merge_base, other.merge_base),
        "stored as": (one.dtype, other.dtype),
        "made by": (one.made_by, other.made_by),
    } | {bound: (value, other.tolerance.get(bound)) for bound, value in one.tolerance.items()}
    if one.computed_in and other.computed_in:
        facts["measured in"] = (one.computed_in, other.computed_in)
    found = [f"{what} {again} instead of {then}" for what, (then, again) in facts.items() if then != again]
    files = sorted(one.files.keys() | other.files.keys())
    found += [
        f"{name} is another" for name in files if name != "README.md" and one.files.get(name) != other.files.get(name)
    ]
    if one.divergence is not None and (one.measured, one.divergence) != (other.measured, other.divergence):
        found.append("other figures were measured on it")
    return found
