"""A row's side follows from what it asks and from nothing else."""

import hashlib
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import DatasetConfig
from solotune.dataset.contract import Message, Meta, Row
from solotune.dataset.split import Splitter, group_key
from solotune.errors import DataError


def config(**changes: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"raw_files": ["x"], **changes})


def row(question: str, answer: str = "a", system: str = "", split: str | None = None, row_id: str = "x") -> Row:
    messages = (Message("user", question), Message("assistant", answer))
    if system:
        messages = (Message("system", system), *messages)
    return Row(row_id, messages, Meta(split=split) if split else Meta())


def sides(rows: list[Row], dataset: DatasetConfig | None = None) -> list[str]:
    splitter = Splitter(dataset or config())
    groups = [splitter.group_of(r) for r in rows]
    for n, (r, group) in enumerate(zip(rows, groups, strict=True), 1):
        splitter.declare(r, group, "f", n)
    splitter.check_declarations()
    return [splitter.side_of(group) for group in groups]


def test_the_draw_is_the_published_formula() -> None:
    dataset = config(seed=7, val_fraction=0.3, test_fraction=0.3)
    for n in range(200):
        key = b"be brief\0" + f"question {n}".encode()
        draw = int.from_bytes(hashlib.sha256(b"split-v1\0" + b"7" + b"\0" + key).digest()[:8], "big") / 2**64
        expected = "test" if draw < 0.3 else "val" if draw < 0.6 else "train"
        assert sides([row(f"Question  {n}", system="Be brief ")], dataset) == [expected]


def test_these_rows_lie_where_they_always_lay() -> None:
    """Splits made by an earlier version must not move."""
    found = sides([row(f"question {n}") for n in range(40)], config(val_fraction=0.2, test_fraction=0.2))
    marks = {"train": ".", "val": "v", "test": "T"}
    assert "".join(marks[side] for side in found) == "vvv.v.v..v...Tvvv.T..T.vvv.TT.v...v..T.v"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (row("What is it?"), row("what  is\tIT?\n"), True),
        (row("Ｆｉｘ ① ㎏"), row("fix 1 KG"), True),
        (row("Straße"), row("STRASSE"), True),
        (row("q", "a"), row("q", "b"), True),
        (row("q", system="s"), row("q"), False),
        (row("q", system="s"), row("q", system="t"), False),
        (row("b", system="a"), row("a b"), False),
    ],
)
def test_rows_that_ask_the_same_are_one_group(one: Row, other: Row, same: bool) -> None:
    assert (group_key(one) == group_key(other)) is same


questions = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
row_lists = st.lists(st.builds(row, questions, st.just("a"), st.sampled_from(["", "s"])), max_size=30)
HALVES = config(val_fraction=0.3, test_fraction=0.3)


@settings(max_examples=60, deadline=None)
@given(row_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[Row], rng: random.Random) -> None:
    order = rng.sample(range(len(rows)), len(rows))
    found = sides(rows, HALVES)
    assert sides([rows[i] for i in order], HALVES) == [found[i] for i in order]


@settings(max_examples=60, deadline=None)
@given(row_lists, row_lists)
def test_rows_that_come_later_move_none(rows: list[Row], more: list[Row]) -> None:
    assert sides(rows + more, HALVES)[: len(rows)] == sides(rows, HALVES)


@settings(max_examples=60, deadline=None)
@given(row_lists, st.lists(st.sampled_from(["train", "val", "test"]), max_size=8))
def test_no_group_is_on_two_sides_whatever_is_declared(rows: list[Row], declared: list[str]) -> None:
    chosen: dict[bytes, str] = {}
    said = [
        Row(r.id, r.messages, Meta(split=chosen.setdefault(group_key(r), split)))
        for r, split in zip(rows, declared, strict=False)
    ]
    everything = rows + said
    found: dict[bytes, set[str]] = {}
    for r, side in zip(everything, sides(everything, HALVES), strict=True):
        found.setdefault(group_key(r), set()).add(side)
    assert all(len(s) == 1 for s in found.values())
    assert all(found[key] == {split} for key, split in chosen.items())


@pytest.mark.parametrize(("val", "test"), [(0.05, 0.1), (0.3, 0.3), (0.0, 0.5)])
def test_shares_are_those_asked_for_within_three_sigma(val: float, test: float) -> None:
    n = 20_000
    found = sides([row(f"question {i}") for i in range(n)], config(val_fraction=val, test_fraction=test))
    for share, name in ((val, "val"), (test, "test"), (1 - val - test, "train")):
        assert abs(found.count(name) / n - share) <= 3 * math.sqrt(share * (1 - share) / n)


def test_seeds_draw_differently() -> None:
    rows = [row(f"question {i}") for i in range(300)]
    assert sides(rows, config(seed=0, test_fraction=0.5)) != sides(rows, config(seed=1, test_fraction=0.5))


def test_a_larger_val_moves_nothing_out_of_test() -> None:
    rows = [row(f"question {i}") for i in range(500)]
    small, large = sides(rows, config(val_fraction=0.05)), sides(rows, config(val_fraction=0.5))
    assert [s == "test" for s in small] == [s == "test" for s in large]
    assert all(b == "val" for a, b in zip(small, large, strict=True) if a == "val")


@pytest.mark.parametrize("declared_last", [True, False])
def test_a_group_follows_the_row_that_declares_even_when_it_comes_last(declared_last: bool) -> None:
    rows = [row("Same question", f"answer {n}") for n in range(4)] + [row("SAME question", "b", split="val")]
    assert sides(rows if declared_last else rows[::-1], config(val_fraction=0, test_fraction=0)) == ["val"] * 5


def test_a_group_declared_twice_names_both_rows() -> None:
    rows = [row("q", "1", split="train"), row("other", "1", split="val"), row("Q", "2", split="test")]
    with pytest.raises(DataError, match=r"f:1 says train, f:3 says test\. What is trained on") as caught:
        sides(rows)
    assert "meta.split" in caught.value.fix


def test_of_many_conflicts_a_few_are_shown_and_the_rest_counted() -> None:
    rows = [row(f"q{n}", split=side) for n in range(9) for side in ("train", "test")]
    with pytest.raises(DataError, match=r"f:9 says train, f:10 says test; and 4 more\."):
        sides(rows)
