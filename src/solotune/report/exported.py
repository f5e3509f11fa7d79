"""What was exported, as lines of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from solotune.artifacts.files import FileRecord
from solotune.artifacts.measured import Artefact, Divergence, ExportRecord
from solotune.report.verdict import signed

_FILES = 60
_MERGED_INTO = {"dequantised": "dequantised base", "original": "original base"}


class Figure(NamedTuple):
    """What was measured, and what is allowed; empty: not measured, no bound."""

    value: str
    allowed: str = ""


@dataclass(frozen=True)
class ExportLine:
    """An exported model."""

    name: str
    passed: bool | None
    recommended: bool
    kept: bool
    merged_into: str
    loss: str
    difference: Figure
    kl: Figure
    logits: str
    """The largest difference of a logit, and the mean of all."""
    agreement: Figure
    bytes: int
    failed: list[str]
    made_by: str


@dataclass(frozen=True)
class Exported:
    """export.json."""

    examples: int
    lines: list[ExportLine]
    files: list[tuple[str, FileRecord]]
    more_files: int


def exported_models(record: ExportRecord) -> Exported:
    """The lines of export.json."""
    files = [(f"{name}/{file}", of) for name, one in record.artefacts.items() for file, of in one.files.items()]
    lines = [_line(name, one) for name, one in record.artefacts.items()]
    return Exported(record.examples, lines, files[:_FILES], max(0, len(files) - _FILES))


def _line(name: str, one: Artefact) -> ExportLine:
    loss, found, bound = one.measured.get("loss"), one.divergence, one.tolerance
    return ExportLine(
        name=name,
        passed=one.passed,
        recommended=one.recommended is True,
        kept=one.path is not None,
        merged_into=_MERGED_INTO.get(one.merge_base or "", one.merge_base or ""),
        loss=_text(loss, ".4f"),
        difference=_difference(one),
        kl=Figure(_text(found.kl_mean if found else None, ".2g"), _text(bound.get("max_kl"), "g", "at most ")),
        logits=_logits(found),
        agreement=Figure(
            _text(found.greedy_agreement if found else None, ".2%"),
            _text(bound.get("min_greedy_agreement"), ".4%", "at least "),
        ),
        bytes=sum(of.bytes for of in one.files.values()),
        failed=one.failed,
        made_by=one.made_by or "",
    )


def _difference(one: Artefact) -> Figure:
    loss, adapter = one.measured.get("loss"), one.measured.get("adapter_loss")
    found = one.measured.get("difference")
    if found is None and loss is not None and adapter is not None:
        found = loss - adapter
    allowed = _text(one.tolerance.get("max_loss_difference"), "g", "within ")
    return Figure("" if found is None else signed(found, 4), allowed)


def _logits(found: Divergence | None) -> str:
    if found is None:
        return ""
    both = (_text(found.max_logit_difference, ".3g"), _text(found.mean_logit_difference, ".2g"))
    return " / ".join(text for text in both if text)


def _text(value: float | None, form: str, before: str = "") -> str:
    if value is None:
        return ""
    text = f"{value:{form}}"
    return before + (text.rstrip("%").rstrip("0").rstrip(".") + "%" if form == ".4%" else text)
