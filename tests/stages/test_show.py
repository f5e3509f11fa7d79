"""prepare --show: a row as tokens, with the mask."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import chat

from solotune import cli
from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.chat import ChatEncoder
from solotune.stages.show import lines, shown

ANSI = "\x1b"


@pytest.fixture
def encoder(tiny_tokenizer: Path) -> ChatEncoder:
    return ChatEncoder.open(ModelDir(tiny_tokenizer))


def printed(encoder: ChatEncoder, *contents: str, colour: bool = False, width: int = 100) -> list[str]:
    encoded = encoder.encode(chat(*contents))
    return list(lines(shown(encoder, encoded.input_ids, encoded.labels), colour=colour, width=width))


def test_without_colour_a_second_line_marks_what_is_trained(encoder: ChatEncoder) -> None:
    assert printed(encoder, "light", "on") == [
        "<|im_start|>│u│s│e│r│⏎",
        "============",
        "light│<|im_end|>│⏎",
        "      ==========",
        "<|im_start|>│a│s│s│i│s│t│a│n│t│⏎",
        "============",
        "on│<|im_end|>│⏎",
        "^^ ##########",
    ]


def test_colour_is_on_trained_and_control_tokens_alone(encoder: ChatEncoder) -> None:
    last = printed(encoder, "light", "on", colour=True)[-1]
    assert last == "\x1b[1;32mon\x1b[0m│\x1b[1;32m<|im_end|>\x1b[0m│⏎"
    assert printed(encoder, "light", "on", colour=True)[0].startswith("\x1b[2;34m<|im_start|>\x1b[0m│u")


def test_a_terminal_gets_nothing_to_obey(encoder: ChatEncoder) -> None:
    text = "".join(printed(encoder, "\x1b[2J\x07 a\tb", "\u202e🏠\r\nx"))
    assert all(c.isprintable() for c in text)
    assert "\\x1b" in text
    assert "\\xf0" in text  # the house is several tokens, none of them a character
    assert "⇥" in text


def test_long_rows_are_broken_between_tokens(encoder: ChatEncoder) -> None:
    found = printed(encoder, "the light in the kitchen " * 20, "ok", width=40)
    assert max(map(len, found)) <= 40
    assert len(found) > 10


def test_marks_stand_below_wide_characters(encoder: ChatEncoder) -> None:
    from solotune.stages.show import Shown

    token = [Shown("日本", True, False, False), Shown("e\u0301", False, False, False), Shown("x", True, False, False)]
    assert list(lines(iter(token), colour=False))[1] == "^^^^   ^"


def test_the_command_prints_place_counts_and_tokens(small_experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("fetch", "prepare"):
        assert cli.main([stage, "--config", "small.yaml"]) == 0
    capsys.readouterr()
    assert cli.main(["prepare", "--config", "small.yaml", "--show", "row-3"]) == 0
    out = capsys.readouterr().out
    assert ANSI not in out
    assert "row-3: " in out
    assert ".jsonl:" in out
    assert "2 messages, " in out
    assert "tags odd" in out
    assert "##########" in out

    assert cli.main(["prepare", "--config", "small.yaml", "--show", "row-333\x1b"]) == 2
    err = capsys.readouterr().err
    assert "has the id row-333\\x1b" in err
    assert "The nearest: row-3" in err
    assert cli.main(["prepare", "--config", "small.yaml", "--show", "nope"]) == 2
    err = capsys.readouterr().err
    assert "nearest" not in err
    assert "train.jsonl has its id. Rows that were left out are in " in err
