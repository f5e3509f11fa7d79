"""Token lengths and the share of what is trained."""

from pathlib import Path

import pytest

from solotune.dataset.contract import Message, Row, encode
from solotune.dataset.token_lengths import TokenLengths, measure


def measured(folder: Path, lengths: list[int], limit: int = 1000, trained: int = 0) -> TokenLengths:
    path = folder / "train.jsonl"
    rows = [Row(f"r{n}", (Message("user", "q"), Message("assistant", "a"))) for n in lengths]
    path.write_bytes(b"".join(encode(r) + b"\n" for r in rows))
    return measure(path, lengths, trained, limit)


@pytest.mark.parametrize(
    ("lengths", "p50", "p95", "longest"),
    [([7], 7, 7, 7), (list(range(2, 102)), 51, 96, 101), ([9, 2, 2, 2], 2, 9, 9), ([3, 2], 2, 3, 3)],
)
def test_percentiles_are_lengths_that_occur(
    tmp_path: Path, lengths: list[int], p50: int, p95: int, longest: int
) -> None:
    found = measured(tmp_path, lengths)
    assert (found.p50, found.p95, found.longest) == (p50, p95, longest)


def test_the_trained_share_is_over_all_tokens(tmp_path: Path) -> None:
    assert measured(tmp_path, [2, 10], trained=9).trained_share == pytest.approx(9 / 12)


def test_rows_are_counted_by_length(tmp_path: Path) -> None:
    assert measured(tmp_path, [9, 2, 9]).by_length == ((2, 1), (9, 2))


def test_rows_over_the_limit_are_counted_and_the_first_named(tmp_path: Path) -> None:
    found = measured(tmp_path, list(range(4, 14)), limit=6)
    assert (found.overlong, found.overlong_ids) == (7, ("r7", "r8", "r9", "r10", "r11"))
    assert measured(tmp_path, [6], limit=6).overlong == 0


def test_no_rows_have_no_lengths(tmp_path: Path) -> None:
    found = measured(tmp_path, [])
    assert (found.p50, found.p95, found.longest, found.trained_share, found.overlong) == (0, 0, 0, 0.0, 0)
