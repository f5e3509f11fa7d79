"""Rows longer than training.max_length on their way into a training: refused, left out or cut, each in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.splits_dir import SplitsDir
from solotune.dataset.contract import Message, Row, encode
from solotune.errors import DataError
from solotune.modeling.chat import IGNORE, ChatEncoder
from solotune.stages.train.inputs import _encode


def row(name: str, *contents: str) -> Row:
    return Row(name, tuple(Message("assistant" if i % 2 else "user", c) for i, c in enumerate(contents)))


ROWS = [
    row("fits", "turn on", "done"),
    row("two", "turn on", "done", "again " * 20, "ok"),
    row("answer", "turn on", "done " * 40),
    row("question", "turn on " * 40, "done"),
]
LIMIT = 60


def encoded(folder: Path, tokenizer: Path, on_overflow: str, limit: int = LIMIT) -> Any:
    splits = SplitsDir(folder)
    splits.split("train").write_bytes(b"".join(encode(r) + b"\n" for r in ROWS))
    config = make_config(dataset={"raw_files": ["x"], "on_overflow": on_overflow}, training={"max_length": limit})
    return _encode(splits, len(ROWS), "train", ChatEncoder.open(ModelDir(tokenizer)), config)


def test_error_names_them_and_what_to_change(tmp_path: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(DataError, match=r"3 rows of train .*two, answer, question.*dataset\.on_overflow") as told:
        encoded(tmp_path, tiny_tokenizer, "error")
    enough = int(str(told.value).split("Set training.max_length to ")[1].split(",")[0])
    rows, facts, overflow = encoded(tmp_path, tiny_tokenizer, "error", enough)
    assert (len(rows), facts.rows, facts.tokens_lost, overflow) == (4, 4, 0, [])


def test_drop_leaves_them_out(tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, facts, overflow = encoded(tmp_path, tiny_tokenizer, "drop")
    assert (len(rows), facts.rows, facts.rows_too_long) == (1, 1, ["two", "answer", "question"])
    assert [(o.line, o.id, o.action, o.tokens - o.tokens_lost) for o in overflow] == [
        (2, "two", "dropped", 0),
        (3, "answer", "dropped", 0),
        (4, "question", "dropped", 0),
    ]
    assert "3 rows of train are left out" in capsys.readouterr().err


def test_truncate_keeps_turns_or_the_beginning_of_an_answer(
    tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = ChatEncoder.open(ModelDir(tiny_tokenizer))
    rows, facts, overflow = encoded(tmp_path, tiny_tokenizer, "truncate")
    fits, two, answer = rows
    assert fits == encoder.encode(ROWS[0].messages)
    first_turns = encoder.encode(ROWS[1].messages[:2])
    assert first_turns.input_ids[: len(two.input_ids)] == two.input_ids
    assert [i for i in two.labels if i != IGNORE] == [i for i in first_turns.labels if i != IGNORE]
    assert len(answer.input_ids) == LIMIT
    assert answer.labels[-1] != IGNORE
    assert answer.labels[-1] not in encoder.stop_ids
    assert (facts.rows, facts.rows_too_long, facts.rows_truncated) == (3, ["question"], ["two", "answer"])
    whole = [encoder.encode(r.messages) for r in ROWS]
    assert facts.tokens == sum(len(r.input_ids) for r in rows)
    assert facts.tokens + facts.tokens_lost == sum(len(r.input_ids) for r in whole)
    lost = sum(o.trained_tokens_lost for o in overflow)
    assert facts.trained_tokens == sum(r.trained_tokens for r in rows)
    assert facts.trained_tokens + lost == sum(r.trained_tokens for r in whole)
    err = capsys.readouterr().err
    assert "1 rows of train are left out" in err
    assert "2 rows of train are cut" in err
