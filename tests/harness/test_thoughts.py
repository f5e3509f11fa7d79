from __future__ import annotations

import pytest

from solotune.harness.thoughts import Parted, parted


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("42", Parted("", "42", False)),
        ("<think>hm</think>\n\n42", Parted("<think>hm</think>", "42", False)),
        ("\n<think>\n\n</think>\n\n42", Parted("\n<think>\n\n</think>", "42", False)),
        ("[THINK]hm[/THINK]42", Parted("[THINK]hm[/THINK]", "42", False)),
        ("<think>hm, and", Parted("", "<think>hm, and", True)),
        ("it says <think>hm</think>", Parted("", "it says <think>hm</think>", False)),
        ("", Parted("", "", False)),
    ],
)
def test_a_block_of_thoughts_at_the_beginning_is_no_answer(answer: str, expected: Parted) -> None:
    assert parted(answer, "42") == expected


def test_thoughts_that_the_reference_has_are_a_part_of_the_answer() -> None:
    answer = "<think>six times seven</think>42"
    assert parted(answer, "<think>6 * 7</think>42") == Parted("", answer, False)
    assert parted("<think>six times", "<think>6 * 7</think>42").is_unfinished
