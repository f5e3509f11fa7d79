from __future__ import annotations

from pathlib import Path

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


def test_an_answer_without_a_stop_token_is_cut(tiny_model: Path) -> None:
    encoder = ChatEncoder.open(ModelDir(tiny_model))
    stop, pad = min(encoder.stop_ids), encoder.pad_id
    assert Said.of([50, 51, stop, pad], encoder) == (encoder.decode([50, 51]), False)
    assert Said.of([50, 51], encoder) == (encoder.decode([50, 51]), True)
