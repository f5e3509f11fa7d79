"""What stops a data set, and what each message proposes."""

import pytest

from solotune.config.schema import DatasetConfig
from solotune.dataset.clean import Counts
from solotune.dataset.policy import check_not_empty, check_quarantine, check_sides
from solotune.errors import DataError


def config(**changes: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"raw_files": ["x"], **changes})


def counts(kept: int, bad: int) -> Counts:
    made = Counts(rows_in=kept + bad, kept=kept)
    made.reasons.update({"invalid_json": bad} if bad else {})
    return made


@pytest.mark.parametrize(
    ("changes", "kept", "bad", "message"),
    [
        ({}, 99, 1, r"1 of 100 rows \(1\.00%\) can't be used\. Each is in R with its place"),
        ({"quarantine": "max_fraction"}, 98, 2, r"\(2\.00%\) can't be used; .*_max_fraction allows 1\.00%"),
        ({"quarantine": "max_fraction", "quarantine_max_fraction": 0.5}, 0, 3, "and none is left"),
        ({"quarantine": "keep_going"}, 0, 3, r"and none is left\. .* Is dataset\.format the right one\?"),
    ],
)
def test_too_many_bad_rows_stop_the_stage(changes: dict, kept: int, bad: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_quarantine(config(**changes), counts(kept, bad), "R")


@pytest.mark.parametrize(
    ("changes", "kept", "bad"),
    [
        ({}, 1, 0),
        ({"quarantine": "max_fraction"}, 99, 1),
        ({"quarantine": "max_fraction", "quarantine_max_fraction": 0.5}, 1, 1),
        ({"quarantine": "keep_going"}, 1, 99),
    ],
)
def test_what_the_policy_allows_passes(changes: dict, kept: int, bad: int) -> None:
    check_quarantine(config(**changes), counts(kept, bad), "R")


def test_files_without_a_row_are_named() -> None:
    with pytest.raises(DataError, match=r"there are no rows in a\.jsonl, b\.csv"):
        check_not_empty(["a.jsonl", "b.csv"], Counts())


def sizes(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


def test_an_empty_side_is_refused_unless_it_was_asked_for() -> None:
    assert check_sides(config(), sizes(8, 1, 1)) == []
    assert check_sides(config(val_fraction=0), sizes(8, 0, 1)) == ["val"]
    assert check_sides(config(val_fraction=0, test_fraction=0), sizes(8, 0, 0)) == ["val", "test"]
    with pytest.raises(DataError, match=r"the train split would be empty"):
        check_sides(config(), sizes(0, 1, 1))
    with pytest.raises(DataError, match=r"the val split would be empty: .*\(0\.05\) drew none") as caught:
        check_sides(config(), sizes(8, 0, 1))
    assert all(
        way in caught.value.fix
        for way in ("Add rows", "raise that", "of 9 rows 0.5 hardly", "meta.split: val", "set the fraction to 0")
    )
    with pytest.raises(DataError, match=r"the test split would be empty"):
        check_sides(config(val_fraction=0), sizes(8, 0, 0))
