"""What was exported, as lines of a table."""

from __future__ import annotations

from dataclasses import dataclass

from solotune.artifacts.files import FileRecord
from solotune.artifacts.measured import Artefact, Divergence, ExportRecord
from solotune.report.verdict import signed

_FILES = 60
_MERGED_INTO = {"dequantised": "dequantised base", "original": "original base"}
_BOUNDS = {
    "max_loss_difference": "its loss is within {:g} nats a token",
    "max_kl": "the mean KL is at most {:g}",
    "min_greedy_agreement": "at least {:.1%} of the greedy tokens agree",
}
"""Keys of `Artefact.tolerance`, in words."""


@dataclass(frozen=True)
class ExportLine:
    """An exported model; a figure that wasn't measured is empty."""

    name: str
    passed: bool | None
    recommended: bool
    kept: bool
    merged_into: str
    loss: str
    difference: str
    kl: str
    logits: str
    agreement: str
    bytes: int
    failed: list[str]
    made_by: str


@dataclass(frozen=True)
class Exported:
    """export.json."""

    examples: int
    lines: list[ExportLine]
    bounds: str
    """What it takes to pass."""
    files: list[tuple[str, FileRecord]]
    more_files: int


def exported_models(record: ExportRecord) -> Exported:
    """The lines of export.json."""
    files = [(f"{name}/{file}", of) for name, one in record.artefacts.items() for file, of in one.files.items()]
    bounds = {key: value for one in record.artefacts.values() for key, value in one.tolerance.items()}
    words = [_BOUNDS.get(key, f"{key.replace('_', ' ')} {{:g}}").format(value) for key, value in bounds.items()]
    lines = [_line(name, one) for name, one in record.artefacts.items()]
    return Exported(record.examples, lines, " and ".join(words), files[:_FILES], max(0, len(files) - _FILES))


def _line(name: str, one: Artefact) -> ExportLine:
    loss, difference = one.measured.get("loss"), one.measured.get("difference")
    if difference is None and loss is not None and "adapter_loss" in one.measured:
        difference = loss - one.measured["adapter_loss"]
    return ExportLine(
        name,
        one.passed,
        one.recommended is True,
        one.path is not None,
        _MERGED_INTO.get(one.merge_base or "", one.merge_base or ""),
        "" if loss is None else f"{loss:.4f}",
        "" if difference is None else signed(difference, 4),
        *_divergence(one.divergence),
        sum(of.bytes for of in one.files.values()),
        one.failed,
        one.made_by or "",
    )


def _divergence(found: Divergence | None) -> tuple[str, str, str]:
    """Mean KL, largest logit difference, agreement."""
    if found is None:
        return "", "", ""
    kl = "" if found.kl_mean is None else f"{found.kl_mean:.2g}"
    logits = "" if found.max_logit_difference is None else f"{found.max_logit_difference:.3g}"
    return kl, logits, f"{found.greedy_agreement:.2%}"
