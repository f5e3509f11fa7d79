"""When a data set isn't fit to be trained on: too many rows left out, or a side left empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from solotune.config.schema import DatasetConfig
from solotune.dataset.clean import Counts
from solotune.dataset.left_out import spread_over_lines
from solotune.errors import DataError


def check_quarantine(dataset: DatasetConfig, counts: Counts, quarantine: Path, report: str) -> None:
    """Applies `dataset.quarantine`.

    Args:
        dataset: the policy.
        counts: what became of the rows.
        quarantine: the rows that were left out.
        report: where the reader of the message finds them.

    Raises:
        DataError: more rows were left out than the policy allows.
    """
    if not counts.quarantined:
        return
    share = counts.quarantined / counts.rows_in
    found = f"{counts.quarantined:,} of {counts.rows_in:,} rows ({share:.2%}) can't be used"
    where = f"Each is in {report} with its place and what to do"
    if not counts.kept:
        found += ", and none is left"
        fix = "Is dataset.format the right one, and does dataset.columns name the columns as the files do?"
    elif dataset.quarantine == "fail":
        fix = f"Repair them, or leave them out with dataset.quarantine: keep_going {_IN_THE_CONFIG}"
    elif dataset.quarantine == "max_fraction" and share > dataset.quarantine_max_fraction:
        found += f"; dataset.quarantine_max_fraction allows {dataset.quarantine_max_fraction:.2%}"
        fix = f"Repair them, or allow more {_IN_THE_CONFIG}"
    else:
        return
    raise DataError(found, f"{where}. {_one_row_a_line(quarantine, counts) or fix}")


_IN_THE_CONFIG = "in the config file (with --set, each later command would need it too)"


def _one_row_a_line(quarantine: Path, counts: Counts) -> str:
    """What to do about a file of JSON lines that is laid out over several; empty where none is."""
    file, bracket = spread_over_lines(quarantine, counts.by_file)
    if not file:
        return ""
    if bracket == "[":
        return f"{file} looks like one array over several lines: name it .json, as such a file is, and not .jsonl"
    return (
        f"{file} looks like objects over several lines: in it, one row stands on one line. Write each on one, "
        "or all as one array into a .json file"
    )


def check_not_empty(files: Iterable[str], counts: Counts) -> None:
    if not counts.rows_in:
        raise DataError(f"there are no rows in {', '.join(files)}", "Check dataset.raw_files")


def check_sides(dataset: DatasetConfig, rows: Mapping[str, int]) -> list[str]:
    """That every split which was asked for has rows.

    Returns:
        Splits that are empty as asked: their fraction is 0, and no row declares them.
    """
    if not rows["train"]:
        raise DataError(
            "the train split would be empty: every row is on another side",
            "Add rows, or lower dataset.val_fraction and dataset.test_fraction",
        )
    among = sum(rows.values())
    fractions = {"val": dataset.val_fraction, "test": dataset.test_fraction}
    empty = [split for split in fractions if not rows[split]]
    for split in empty:
        if fractions[split]:
            raise DataError(
                f"the {split} split would be empty: no row declares it, and dataset.{split}_fraction "
                f"({fractions[split]:g}) drew none",
                f"Add rows, raise that fraction (of {among:,} rows {_draws(among):g} hardly ever draws none), declare "
                f"meta.split: {split} on some rows, "
                f"or set the fraction to 0 to go without {split}",
            )
    return empty


def _draws(rows: int) -> float:
    """A fraction that draws one of so many rows in 99 cases of 100."""
    return min(0.5, math.ceil(500 / rows) / 100)
