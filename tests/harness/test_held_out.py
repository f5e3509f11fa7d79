from __future__ import annotations

from solotune.harness.held_out import HeldOut, spread
from solotune.modeling.chat import IGNORE


def test_a_row_with_another_answer_is_labelled_on_that_answer_alone(held_out: HeldOut) -> None:
    before = held_out.prompt(5)
    one, other = held_out.answered_with(5, ["yes", "it is off now"])
    assert other.input_ids == held_out.encoded[5].input_ids
    for row in (one, other):
        assert row.input_ids[: len(before)] == before
        assert set(row.labels[: len(before)]) == {IGNORE}
    whole = held_out.encoded[5]
    assert other.labels[len(before) :] == whole.labels[len(before) :]
    assert other.trained_tokens < whole.trained_tokens  # the first turn's answer isn't among them


def test_tags_come_with_the_rows_that_carry_them(held_out: HeldOut) -> None:
    assert held_out.tags == {"one": [0, 1, 2, 3, 4, 5], "two": [5]}


def test_few_rows_come_from_all_over_the_split_and_are_the_same_each_time() -> None:
    found = spread(1000, 50)
    assert found == spread(1000, 50)
    assert [number // 20 for number in sorted(found)] == list(range(50))
    by_turns = [sum(number % 4 == kind for number in found) for kind in range(4)]
    assert min(by_turns) >= 5, "of kinds that take turns in the file, too, there are some of each"


def test_no_more_rows_than_there_are() -> None:
    assert spread(3, None) == spread(3, 3) == spread(3, 9) == {0, 1, 2}
    assert len(spread(7, 6)) == 6
