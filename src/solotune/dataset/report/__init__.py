"""report.html: where every row went and how long it is, as one page without scripts or anything from elsewhere.

Everything in it is data that somebody else chose: characters that don't print are shown as escapes, texts are cut,
and the template escapes the rest. The bytes depend on nothing but the splits and the lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from solotune.artifacts.splits_dir import NearPair, SplitsManifest
from solotune.config.schema import SPLITS, RunConfig, Split
from solotune.dataset.left_out import LeftOut, first_of_each
from solotune.dataset.reasons import NOTES, REASONS
from solotune.dataset.report.histogram import Histogram, histograms
from solotune.dataset.report.page import environment
from solotune.dataset.token_lengths import TokenLengths, fate_of_overlong

if TYPE_CHECKING:
    import jinja2

_EXAMPLES = 3
_FILES, _TAGS, _COLUMNS, _VALUES = 40, 40, 20, 8


def of(
    manifest: SplitsManifest,
    quarantine: Path,
    near_duplicates: Path,
    config: RunConfig | None = None,
    lengths: Mapping[Split, TokenLengths] | None = None,
) -> str:
    """The page.

    Args:
        manifest: of the splits.
        quarantine: its quarantine.jsonl.
        near_duplicates: its near_duplicates.jsonl; read only where somebody looked for them.
        config: what the lengths were counted for.
        lengths: by split; None where the base model hasn't been fetched.
    """
    measured = _Measured(lengths, config) if config and lengths is not None else None
    left_out = first_of_each(quarantine, _EXAMPLES)
    return _template().render(
        manifest=manifest,
        splits=SPLITS,
        sources=_sources(manifest),
        reasons=[_reason(code, count, left_out.get(code, ())) for code, count in _most_first(manifest.reasons.items())],
        notes=[(NOTES.get(note, note), count) for note, count in sorted(manifest.notes.items())],
        tags=_some(_most_first((tag, by_split) for tag, by_split in manifest.tags.items()), _TAGS),
        unread=_some(sorted(manifest.unread_columns.items()), _COLUMNS),
        settings=[(key, _value(value)) for key, value in manifest.config.items()],
        near_pairs=_near_pairs(near_duplicates) if manifest.near else [],
        measured=measured,
        histograms=_histograms(measured),
    )


class _Measured:
    """Token lengths, and what they were counted with."""

    def __init__(self, lengths: Mapping[Split, TokenLengths], config: RunConfig) -> None:
        self.lengths = lengths
        self.base_model = config.model.name_or_path
        self.max_length = config.training.max_length
        self.fates = {split: fate_of_overlong(split, config.dataset.on_overflow) for split in SPLITS}


@dataclass(frozen=True)
class _Some:
    """As much of a list as is shown."""

    shown: list[Any]
    more: int


def _some(items: Sequence[Any], limit: int) -> _Some:
    return _Some(list(items[:limit]), max(0, len(items) - limit))


def _sources(manifest: SplitsManifest) -> _Some:
    rows = manifest.rows_by_file
    return _some([(name, rows.get(name), record) for name, record in manifest.inputs.items()], _FILES)


@dataclass(frozen=True)
class _Reason:
    code: str
    count: int
    means: str
    examples: Sequence[LeftOut]


def _reason(code: str, count: int, examples: Sequence[LeftOut]) -> _Reason:
    return _Reason(code, count, REASONS[code].means if code in REASONS else "", examples)


def _near_pairs(path: Path) -> list[NearPair]:
    decode = msgspec.json.Decoder(NearPair).decode
    return [decode(line) for line in path.read_bytes().splitlines()]


def _most_first(items: Any) -> list[Any]:
    def rows(item: tuple[str, Any]) -> tuple[int, str]:
        name, count = item
        return -(count if isinstance(count, int) else sum(count.values())), name

    return sorted(items, key=rows)


def _histograms(measured: _Measured | None) -> list[tuple[str, Histogram]]:
    if measured is None:
        return []
    by_split: dict[str, Sequence[tuple[int, int]]] = {
        split: of.by_length for split, of in measured.lengths.items() if of.by_length
    }
    return list(histograms(by_split, measured.max_length).items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        more = f", and {len(value) - _VALUES} more" if len(value) > _VALUES else ""
        return ", ".join(str(item) for item in value[:_VALUES]) + more
    return "none" if value is None else str(value)


@cache  # prepare writes the page twice
def _template() -> jinja2.Template:
    return environment().get_template("template.html.jinja")
