"""Rows wait, then go to their side in the order in which they came."""

from pathlib import Path

import msgspec
import pytest

from solotune.dataset.contract import Message, Meta, Row, encode
from solotune.dataset.divide import WaitingRows
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError


def row(n: int, *tags: str) -> Row:
    return Row(f"row {n}\u2028é", (Message("user", f"q{n}\n"), Message("assistant", "a")), Meta(tags=tags))


def divide(folder: Path, rows: list[Row], sides: str) -> tuple:
    names = {"r": "train", "v": "val", "t": "test"}
    paths = {split: folder / f"{split}.jsonl" for split in names.values()}
    told: list[int] = []
    with WaitingRows(folder / "waiting") as waiting:
        for n, r in enumerate(rows):
            waiting.add(r, n.to_bytes(16, "big"))
        found = waiting.divide(lambda g: names[sides[int.from_bytes(g, "big")]], paths, told.append)
    return found, {split: list(read_rows(path)) for split, path in paths.items()}, sum(told)


def test_rows_go_to_their_side_in_order_and_are_counted(tmp_path: Path) -> None:
    rows = [row(0, "a", "b"), row(1), row(2, "a"), row(3, "a", "b"), row(4, "b", "b")]
    found, written, told = divide(tmp_path, rows, "rvrtr")
    assert written == {"train": [rows[0], rows[2], rows[4]], "val": [rows[1]], "test": [rows[3]]}
    assert found.rows == {"train": 3, "val": 1, "test": 1}
    assert found.tags == {"a": {"train": 2, "val": 0, "test": 1}, "b": {"train": 2, "val": 0, "test": 1}}
    assert list(found.tags) == ["a", "b"]
    assert told == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.jsonl", "train.jsonl", "val.jsonl"]


def test_progress_is_told_of_every_row_of_many(tmp_path: Path) -> None:
    rows = [row(n) for n in range(9000)]
    found, written, told = divide(tmp_path, rows, "r" * 9000)
    assert told == found.rows["train"] == len(written["train"]) == 9000


def test_nothing_to_divide_gives_three_empty_files(tmp_path: Path) -> None:
    found, written, told = divide(tmp_path, [], "")
    assert (found.rows, found.tags, told) == ({"train": 0, "val": 0, "test": 0}, {}, 0)
    assert written == {"train": [], "val": [], "test": []}


def test_a_line_that_is_no_row_is_named_when_it_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(encode(row(1)) + b"\n" + msgspec.json.encode({"id": 7}) + b"\n")
    reading = read_rows(path)
    assert next(reading) == row(1)
    with pytest.raises(ArtifactError, match=r"train\.jsonl:2 isn't a row"):
        next(reading)
