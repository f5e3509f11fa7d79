"""What `prepare` shows: where every row went, what lies where, how long it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from solotune import console
from solotune.artifacts.splits_dir import NearDuplicates, SplitsDir
from solotune.config.schema import SPLITS, Split
from solotune.dataset.clean import Counts
from solotune.dataset.left_out import first_of_each
from solotune.dataset.reasons import NOTES
from solotune.dataset.token_lengths import TokenLengths, fate_of_overlong

_SHOWN = 12
_REASONS = 3


def show_rows(counts: Counts, quarantine: Path) -> None:
    """Every row that came in, by what became of it; of each reason the first place, of some what is wrong there."""
    first = {code: some[0] for code, some in first_of_each(quarantine, 1).items()}
    lines = [
        ["rows in", f"{counts.rows_in:,}", "", ""],
        ["kept", f"{counts.kept:,}", _percent(counts.kept, counts.rows_in), ""],
        ["duplicates", f"{counts.duplicates:,}", _percent(counts.duplicates, counts.rows_in), ""],
        ["quarantined", f"{counts.quarantined:,}", _percent(counts.quarantined, counts.rows_in), ""],
    ]
    reasons = sorted(counts.reasons.items(), key=lambda item: (-item[1], item[0]))
    for code, count in reasons:
        place = console.safe(first[code].place) if code in first else ""
        lines.append([f"  {code}", f"{count:,}", _percent(count, counts.rows_in), place])
    console.table(["rows", "count", "share", "first"], lines)
    for row in [first[code] for code, _ in reasons if code in first][:_REASONS]:
        console.say(f"  {console.safe(row.place)}: {console.safe(row.message, 500)}")
    for note, count in sorted(counts.notes.items()):
        console.say(f"  note: {NOTES[note]} ({count:,})")


def show_unread(columns: Mapping[str, int], format_name: str) -> None:
    """Columns that the format leaves alone, so that a misspelt one is seen."""
    if columns:
        shown = sorted(columns.items())[:_SHOWN]
        listed = ", ".join(f"{console.safe(name, 40)} ({count:,})" for name, count in shown)
        more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
        console.say(f"  note: format {format_name} doesn't read these columns: {listed}{more}")


def show_splits(rows: Mapping[str, int], lengths: Mapping[Split, TokenLengths] | None, limit: int) -> None:
    """Rows by split, with their lengths where a tokenizer is at hand."""
    header = ["split", "rows", "share"]
    if lengths is not None:
        header += ["tokens p50", "p95", "max", "trained", f"> {limit:,}"]
    total = sum(rows.values())
    lines = []
    for split in SPLITS:
        line = [split, f"{rows[split]:,}", _percent(rows[split], total)]
        if lengths is not None:
            of = lengths[split]
            line += [f"{n:,}" for n in (of.p50, of.p95, of.longest)]
            line += [f"{of.trained_share:.1%}", f"{of.overlong:,}"]
        lines.append(line)
    console.say()
    console.table(header, lines)


def show_overlong(lengths: Mapping[Split, TokenLengths], limit: int, on_overflow: str) -> None:
    """Names rows that don't fit, and says what a run will do about them."""
    for split, of in lengths.items():
        if of.overlong:
            ids = ", ".join(console.safe(i, 60) for i in of.overlong_ids)
            more = ", …" if of.overlong > len(of.overlong_ids) else ""
            console.warn(
                f"rows of {split} with more than training.max_length = {limit:,} tokens: {of.overlong:,} "
                f"({ids}{more}); {fate_of_overlong(split, on_overflow)}"
            )


def show_control_texts(lengths: Mapping[Split, TokenLengths]) -> None:
    """Texts that are control tokens of the base model everywhere but in a content."""
    found: Counter[str] = Counter()
    for of in lengths.values():
        found.update(dict(of.control_texts))
    if found:
        shown = ", ".join(f"{console.safe(text, 40)} ({rows:,})" for text, rows in found.most_common(_SHOWN))
        console.say(f"  note: rows with text that the tokenizer has as a control token; it stays text: {shown}")


def show_tags(tags: Mapping[str, Mapping[str, int]]) -> None:
    """Rows by tag, the most frequent first."""
    if not tags:
        return
    ordered = sorted(tags.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    lines = [
        [console.safe(tag, 40), *(f"{by_split[s]:,}" for s in SPLITS), f"{sum(by_split.values()):,}"]
        for tag, by_split in ordered[:_SHOWN]
    ]
    console.say()
    console.table(["tag", *SPLITS, "all"], lines)
    if len(tags) > _SHOWN:
        console.say(f"  and {len(tags) - _SHOWN:,} more tags")


def show_near(near: NearDuplicates | None, rows: Mapping[str, int], splits: SplitsDir) -> None:
    """Rows that say almost what a row on another side says."""
    if near is None:
        return
    if near.clusters:
        console.say(
            f"near-duplicates kept on one side: {near.clustered_rows:,} rows in {near.clusters:,} "
            f"{'cluster' if near.clusters == 1 else 'clusters'} "
            f"({splits.clusters})"
        )
    found = [f"{near.rows[s]:,} of {rows[s]:,} rows of {s}" for s in ("val", "test") if near.rows.get(s)]
    if found:
        console.warn(
            f"{' and '.join(found)} say almost what a row on another side says (Jaccard {near.threshold:g} and more); "
            f"the first are in {splits.near_duplicates}. dataset.dedup.near: cluster keeps such rows together"
        )
    else:
        console.say(f"near-duplicates across splits (Jaccard {near.threshold:g} and more): none")


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
