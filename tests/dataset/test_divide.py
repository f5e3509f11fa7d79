"""Rows wait, then go to their side in the order in which they came."""

from functools import partial
from pathlib import Path

import msgspec
import pytest

from solotune.dataset.contract import Message, Meta, Row, encode
from solotune.dataset.divide import WaitingRows
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError


def row(n: int, *tags: str) -> Row:
    return Row(f"row {n}\u2028é", (Message("user", f"q{n}\n"), Message("assistant", "a")), Meta(tags=tags))


NAMES = {"r": "train", "v": "val", "t": "test"}


def divide(folder: Path, rows: list[Row], sides: str, guesses: str | None = None, *, sure: bool = False) -> tuple:
    """Rows that belong on `sides`, after it was guessed that they belong on `guesses`."""

    def side(of: str, group: bytes) -> str:
        return NAMES[of[int.from_bytes(group, "big")]]

    paths = {split: folder / f"{split}.jsonl" for split in ("train", "val", "test")}
    told: list[int] = []
    with WaitingRows(folder, partial(side, guesses) if guesses is not None else None) as waiting:
        for n, r in enumerate(rows):
            waiting.add(encode(r), r.meta.tags, n.to_bytes(16, "big"))
        found = waiting.divide(None if sure else partial(side, sides), paths, told.append)
    return found, {split: list(read_rows(path)) for split, path in paths.items()}, sum(told)


@pytest.mark.parametrize(
    ("guesses", "sure"), [(None, False), ("rvrtr", False), ("rvrtr", True), ("rrrrr", False), ("vtvrt", False)]
)
def test_rows_go_to_their_side_in_order_and_are_counted(tmp_path: Path, guesses: str | None, sure: bool) -> None:
    rows = [row(0, "a", "b"), row(1), row(2, "a"), row(3, "a", "b"), row(4, "b", "b")]
    found, written, told = divide(tmp_path, rows, "rvrtr", guesses, sure=sure)
    assert written == {"train": [rows[0], rows[2], rows[4]], "val": [rows[1]], "test": [rows[3]]}
    assert found.rows == found.groups == {"train": 3, "val": 1, "test": 1}
    assert found.tags == {"a": {"train": 2, "val": 0, "test": 1}, "b": {"train": 2, "val": 0, "test": 1}}
    assert list(found.tags) == ["a", "b"]
    assert told == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["test.jsonl", "train.jsonl", "val.jsonl"]


def test_rows_of_one_group_are_one_group(tmp_path: Path) -> None:
    with WaitingRows(tmp_path, lambda _: "val") as waiting:
        for n in range(6):
            waiting.add(encode(row(n)), (), bytes([n % 2]) * 16)
        found = waiting.divide(None, {s: tmp_path / s for s in ("train", "val", "test")}, lambda _: None)
    assert (found.rows["val"], found.groups["val"]) == (6, 2)


@pytest.mark.parametrize("guesses", [None, "v" * 9000])
def test_progress_is_told_of_every_row_of_many(tmp_path: Path, guesses: str | None) -> None:
    rows = [row(n) for n in range(9000)]
    found, written, told = divide(tmp_path, rows, "r" * 9000, guesses)
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
