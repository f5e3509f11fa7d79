from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import chat, make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.generate import Said, answer, generate


def test_answers_dont_depend_on_their_neighbours_and_keep_their_order(tiny_model: Path) -> None:
    config = make_config(
        model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"},
        evaluation={"max_new_tokens": 12, "batch_size": 3},
    )
    model = load_base_model(ModelDir(tiny_model), config)
    encoder = ChatEncoder.open(ModelDir(tiny_model))
    prompts = [
        encoder.encode_prompt(chat(text)) for text in ("a", "light in the kitchen please " * 3, "off", "b c d", "x")
    ]
    done: list[int] = []
    together = generate(model, prompts, encoder, config, on_rows=done.append)
    alone = [generate(model, [prompt], encoder, config)[0] for prompt in prompts]
    assert together == alone
    assert len(set(together)) > 1
    assert done == [3, 2]
    said = answer(model, prompts, encoder, config)
    assert [one.text for one in said] == together


def test_for_want_of_memory_fewer_are_answered_at_once_and_none_is_lost_or_answered_twice(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"},
        evaluation={"max_new_tokens": 4, "batch_size": 5},
    )
    model = load_base_model(ModelDir(tiny_model), config)
    encoder = ChatEncoder.open(ModelDir(tiny_model))
    prompts = [encoder.encode_prompt(chat(text)) for text in ("a", "light " * 9, "off", "b c d", "x", "y", "z")]
    expected = generate(model, prompts, encoder, config)
    upstream, at_once, done = model.generate, [], []

    def refuse(most: int, **named: Any) -> Any:
        at_once.append(len(named["input_ids"]))
        if at_once[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return upstream(**named)

    monkeypatch.setattr(model, "generate", partial(refuse, 2))
    assert generate(model, prompts, encoder, config, on_rows=done.append) == expected
    assert at_once == [5, 2, 2, 2, 1]
    assert sum(done) == len(prompts)
    assert "no GPU memory is left to answer 5 rows at once; now 2" in capsys.readouterr().err
    model.train()
    monkeypatch.setattr(model, "generate", partial(refuse, 0))
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, prompts, encoder, config)
    assert model.training, "it is left as it was"


def test_an_answer_without_a_stop_token_is_cut(tiny_model: Path) -> None:
    encoder = ChatEncoder.open(ModelDir(tiny_model))
    stop, pad = min(encoder.stop_ids), encoder.pad_id
    assert Said.of([50, 51, stop, pad], encoder) == (encoder.decode([50, 51]), False)
    assert Said.of([50, 51], encoder) == (encoder.decode([50, 51]), True)
