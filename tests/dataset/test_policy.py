"""What stops a data set, and what each message proposes."""

import json
from pathlib import Path

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


def left_out(folder: Path, *rows: tuple[str, int, str]) -> Path:
    entries = [{"file": f, "line": n, "code": "invalid_json", "message": "m", "raw": raw} for f, n, raw in rows]
    (folder / "quarantine.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder / "quarantine.jsonl"


@pytest.mark.parametrize(
    ("changes", "kept", "bad", "message"),
    [
        ({}, 99, 1, r"1 of 100 rows \(1\.00%\) can't be used\. Each is in R with its place"),
        ({"quarantine": "max_fraction"}, 98, 2, r"\(2\.00%\) can't be used; .*_max_fraction allows 1\.00%"),
        ({"quarantine": "max_fraction", "quarantine_max_fraction": 0.5}, 0, 3, "and none is left"),
        ({"quarantine": "keep_going"}, 0, 3, r"and none is left\. .* Is dataset\.format the right one, and does"),
        ({}, 99, 1, r"leave them out with dataset\.quarantine: keep_going in the config file \(with --set, each later"),
        ({"quarantine": "max_fraction"}, 98, 2, r"or allow more in the config file"),
    ],
)
def test_too_many_bad_rows_stop_the_stage(changes: dict, kept: int, bad: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        check_quarantine(config(**changes), counts(kept, bad), left_out(tmp_path), "R")


@pytest.mark.parametrize(
    ("changes", "kept", "bad"),
    [
        ({}, 1, 0),
        ({"quarantine": "max_fraction"}, 99, 1),
        ({"quarantine": "max_fraction", "quarantine_max_fraction": 0.5}, 1, 1),
        ({"quarantine": "keep_going"}, 1, 99),
    ],
)
def test_what_the_policy_allows_passes(changes: dict, kept: int, bad: int, tmp_path: Path) -> None:
    check_quarantine(config(**changes), counts(kept, bad), left_out(tmp_path), "R")


ROW = {"id": "x", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.mark.parametrize(
    ("text", "rows", "remedy"),
    [
        (json.dumps(ROW, indent=2), 14, "looks like objects over several lines: in it, one row stands on one line"),
        (json.dumps([ROW], indent=2), 16, "looks like one array over several lines: name it .json"),
        (f" {{ \n{json.dumps(ROW)}\n", 2, ""),  # half of its lines at most are left out
        (f"{json.dumps(ROW)[1:]}\n{{\n", 2, ""),
        ('{"id":\n"x"}', 2, ""),
    ],
)
def test_a_file_of_rows_over_several_lines_is_told_from_a_wrong_format(
    text: str, rows: int, remedy: str, tmp_path: Path
) -> None:
    lines = [("a.jsonl", 1, "broken"), *(("b.jsonl", n, line) for n, line in enumerate(text.splitlines(), 1))]
    bad = [(file, n, line) for file, n, line in lines if line != json.dumps(ROW)]
    for kept in (99, 0):
        of = counts(kept, len(bad))
        of.by_file.update({"a.jsonl": kept + 1, "b.jsonl": rows})
        with pytest.raises(DataError) as caught:
            check_quarantine(config(), of, left_out(tmp_path, *bad), "R")
        if remedy:
            assert f"what to do. b.jsonl {remedy}" in caught.value.fix
            assert "dataset.format" not in caught.value.fix
        else:
            assert "over several lines" not in caught.value.fix


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
