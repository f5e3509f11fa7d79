"""Every answer fits on the page, and what doesn't is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from solotune.artifacts.measured import Answer, Prediction
from solotune.report.answers import answers


def row(number: int, change: float = 0.0, text: str = "answer", **more: Answer) -> Prediction:
    return Prediction(
        f"row-{number}",
        ["even" if number % 2 == 0 else "odd", "all", "all"],
        [{"role": "user", "content": "question"}],
        "reference",
        Answer(text, 4.0, 4, {"exact_match": 0.0}),
        Answer("reference", 4.0 + 4 * change, 4, {"exact_match": 1.0, "bleu": None}),
        more,
    )


def written(folder: Path, rows: list[Prediction], more: bytes = b"") -> Path:
    path = folder / "predictions.jsonl"
    path.write_bytes(msgspec.json.Encoder().encode_lines(rows) + more)
    return path


def test_rows_are_small_and_whole(tmp_path: Path) -> None:
    found = answers(written(tmp_path, [row(1), row(2, gguf=Answer("x", 2.0, 4, {}))]))
    assert found is not None
    assert found.models == ["base", "adapter", "gguf"]
    assert found.metrics == ["exact_match", "bleu"]
    assert found.tags == [("all", 2), ("even", 1), ("odd", 1)]
    assert msgspec.json.decode(msgspec.json.encode(found.rows[0])) == [
        "row-1",
        [2, 0],
        [["user", "question"]],
        "reference",
        [["answer", 1.0, 4, [0.0, None], None], [None, 1.0, 4, [1.0, None], None], None],
    ]
    assert (found.rows_in_all, found.damaged, found.cut_at) == (2, 0, None)


def test_only_an_answer_that_was_cut_has_a_flag(tmp_path: Path) -> None:
    found = answers(written(tmp_path, [row(1, gguf=Answer("reference", 2.0, 4, {}, cut=True))]))
    assert found is not None
    base, _, gguf = msgspec.json.decode(msgspec.json.encode(found.rows[0]))[4]
    assert (len(base), gguf) == (5, [None, 0.5, 4, [None, None], None, True])


def test_none_are_none(tmp_path: Path) -> None:
    assert answers(tmp_path / "predictions.jsonl") is None
    assert answers(written(tmp_path, [])) is None
    assert answers(written(tmp_path, [], b"{}\n")) is None


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    found = answers(written(tmp_path, [row(1)], b'{"id": 3}\n{"id\n\xff\n'))
    assert found is not None
    assert (len(found.rows), found.rows_in_all, found.damaged) == (1, 1, 3)


def test_of_too_many_rows_the_most_changed_are_kept_in_the_files_order(tmp_path: Path) -> None:
    changes = [0.1, -0.9, 0.0, 0.8, -0.2, 0.7, -0.8]
    found = answers(written(tmp_path, [row(i, change) for i, change in enumerate(changes)]), most_rows=4)
    assert found is not None
    assert [one.id for one in found.rows] == ["row-1", "row-3", "row-5", "row-6"]
    assert found.rows_in_all == 7
    assert len(answers(written(tmp_path, [row(i) for i in range(7)]), most_rows=5).rows) == 5  # type: ignore[union-attr]


def test_texts_are_cut_only_when_the_page_would_burst(tmp_path: Path) -> None:
    path = written(tmp_path, [row(i, text="x" * (600 if i else 90)) for i in range(10)])
    assert answers(path, most_bytes=10_000).cut_at is None  # type: ignore[union-attr]
    found = answers(path, most_bytes=5_200)
    assert found is not None
    assert found.cut_at == 500
    assert found.rows[0].answers[0].text == "x" * 90  # type: ignore[union-attr]
    assert found.rows[1].answers[0].text == ("x" * 500, 600)  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [["parts", {"text": "hi"}], None, 3])
def test_a_message_of_another_kind_is_shown_as_json(tmp_path: Path, content: object) -> None:
    message = {"role": "user", "content": content}
    found = answers(written(tmp_path, [msgspec.structs.replace(row(1), messages=[message])]))
    assert found is not None
    assert found.rows[0].messages == [("user", msgspec.json.encode(content).decode())]


def test_a_row_without_assistant_tokens_has_no_loss(tmp_path: Path) -> None:
    none = Answer("", 0.0, 0, {})
    found = answers(written(tmp_path, [msgspec.structs.replace(row(1), base=none, adapter=none)]))
    assert found is not None
    assert found.rows[0].answers[0].loss is None  # type: ignore[union-attr]
