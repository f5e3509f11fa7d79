"""A row's side follows from what it asks and from nothing else."""

import hashlib
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import DatasetConfig
from solotune.dataset.contract import Message, Meta, Row
from solotune.dataset.split import Splitter, declared_key, group_key
from solotune.errors import DataError


def config(**changes: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"raw_files": ["x"], **changes})


def row(
    question: str, answer: str = "a", system: str = "", split: str | None = None, row_id: str = "x", group: str = ""
) -> Row:
    messages = (Message("user", question), Message("assistant", answer))
    if system:
        messages = (Message("system", system), *messages)
    return Row(row_id, messages, Meta(split=split, group=group) if split else Meta(group=group))


def sides(rows: list[Row], dataset: DatasetConfig | None = None) -> list[str]:
    splitter = Splitter(dataset or config())
    groups = [splitter.declare(r, "f", n) for n, r in enumerate(rows, 1)]
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
few_questions = st.integers(0, 12).map(lambda n: f"question {n}")
mixed_lists = st.lists(
    st.builds(row, few_questions, st.just("a"), group=st.sampled_from(["", "", "g1", "g2", "g3", "question 1"])),
    max_size=30,
)
"""Declared and undeclared rows with the same first turns in every combination."""
grouped_lists = st.lists(st.integers(0, 40), max_size=30).map(
    lambda found: [row(f"q{n}", str(i), group=f"g{n % 7}" if n % 2 else "") for i, n in enumerate(found)]
)
"""Declared groups that share no first turn with another group or an undeclared row."""
HALVES = config(val_fraction=0.3, test_fraction=0.3)


@settings(max_examples=60)
@given(row_lists, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[Row], rng: random.Random) -> None:
    order = rng.sample(range(len(rows)), len(rows))
    found = sides(rows, HALVES)
    assert sides([rows[i] for i in order], HALVES) == [found[i] for i in order]


@settings(max_examples=60)
@given(row_lists, row_lists)
def test_rows_that_come_later_move_none(rows: list[Row], more: list[Row]) -> None:
    assert sides(rows + more, HALVES)[: len(rows)] == sides(rows, HALVES)


@settings(max_examples=60)
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


# --- Declared groups ------------------------------------------------------------------------------


def test_rows_of_a_declared_group_lie_together_whatever_they_ask() -> None:
    rows = [row(f"question {n}", group=f"book {n % 20}") for n in range(200)]
    found = sides(rows, HALVES)
    assert all(len({found[n] for n in range(book, 200, 20)}) == 1 for book in range(20))
    assert set(found) == {"train", "val", "test"}


def test_a_declared_group_lies_where_its_name_draws_it() -> None:
    dataset = config(seed=7, val_fraction=0.3, test_fraction=0.3)
    for n in range(100):
        digest = hashlib.sha256(b"split-v1\0" + b"7" + b"\0" + b"\0group\0" + f"book {n}".encode()).digest()
        draw = int.from_bytes(digest[:8], "big") / 2**64
        expected = "test" if draw < 0.3 else "val" if draw < 0.6 else "train"
        assert sides([row("whatever", group=f"book {n}")], dataset) == [expected]


@settings(max_examples=100)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), questions, st.sampled_from(["", "s"])
)
def test_a_declared_name_is_no_text(name: str, question: str, system: str) -> None:
    assert declared_key(name) != group_key(row(question, system=system))
    assert declared_key(name) != group_key(row(name, system=system))
    splitter = Splitter(config())
    assert splitter.group_of(row("x", group=name)) != splitter.group_of(row(name))


@settings(max_examples=200)
@given(mixed_lists)
def test_neither_a_declared_group_nor_first_turns_are_on_two_sides(rows: list[Row]) -> None:
    found: dict[bytes, set[str]] = {}
    for r, side in zip(rows, sides(rows, HALVES), strict=True):
        found.setdefault(group_key(r), set()).add(side)
        if r.meta.group:
            found.setdefault(declared_key(r.meta.group), set()).add(side)
    assert all(len(s) == 1 for s in found.values())


@settings(max_examples=100)
@given(mixed_lists, st.randoms(use_true_random=False))
def test_the_order_of_grouped_rows_does_not_matter(rows: list[Row], rng: random.Random) -> None:
    order = rng.sample(range(len(rows)), len(rows))
    found = sides(rows, HALVES)
    assert sides([rows[i] for i in order], HALVES) == [found[i] for i in order]


@settings(max_examples=100)
@given(grouped_lists, st.randoms(use_true_random=False))
def test_rows_that_come_or_go_move_none(rows: list[Row], rng: random.Random) -> None:
    """As long as no row ties two groups together: then one of the two has to follow the other."""
    kept = [i for i in range(len(rows)) if rng.random() < 0.6]
    found = sides(rows, HALVES)
    assert sides([rows[i] for i in kept], HALVES) == [found[i] for i in kept]


def test_a_row_that_ties_two_groups_together_moves_those_that_declared_none() -> None:
    for n in range(60):
        asked, book = row(f"question {n}"), row("other", group=f"book {n}")
        tie = row(f"Question  {n}", "b", group=f"book {n}")
        before, after = sides([asked, book], HALVES), sides([asked, book, tie], HALVES)
        assert after == [before[1]] * 3


def test_a_group_declared_for_two_splits_is_refused_though_its_rows_ask_different_things() -> None:
    rows = [row("a", group="g", split="train"), row("b"), row("c", group="g", split="val")]
    with pytest.raises(DataError, match=r"f:1 says train, f:3 says val\."):
        sides(rows)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_splits_declared_for_groups_that_are_tied_together_are_refused(order: list[int]) -> None:
    rows = [row("a", group="g", split="train"), row("a", "2", group="h"), row("b", group="h", split="test")]
    with pytest.raises(DataError, match=r"rows of one group are declared for two splits: f:\d says"):
        sides([rows[i] for i in order])


def test_a_declared_split_holds_for_all_that_is_tied_together() -> None:
    rows = [row("a"), row("A", group="g"), row("b", group="g"), row("B "), row("c", group="g", split="val")]
    assert sides(rows, config(val_fraction=0, test_fraction=0)) == ["val"] * 5


@pytest.mark.parametrize("size", [2, 5])
def test_joined_groups_keep_the_shares_within_three_sigma(size: int) -> None:
    """A cluster must not be drawn to test more often for having more members."""
    n = 8_000
    splitter = Splitter(config(val_fraction=0.2, test_fraction=0.1))
    groups = [splitter.group_of(row(f"question {i}")) for i in range(n * size)]
    for i, group in enumerate(groups):
        splitter.join(groups[i - i % size], group)
    found = [splitter.side_of(group) for group in groups[::size]]
    for share, name in ((0.2, "val"), (0.1, "test"), (0.7, "train")):
        assert abs(found.count(name) / n - share) <= 3 * math.sqrt(share * (1 - share) / n)


def test_shares_of_declared_groups_are_those_asked_for_within_three_sigma() -> None:
    n = 8_000
    found = sides([row(f"q{i}", group=f"g{i}") for i in range(n)], config(val_fraction=0.2, test_fraction=0.1))
    for share, name in ((0.2, "val"), (0.1, "test"), (0.7, "train")):
        assert abs(found.count(name) / n - share) <= 3 * math.sqrt(share * (1 - share) / n)


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
