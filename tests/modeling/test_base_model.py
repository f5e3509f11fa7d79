from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tests.helpers import make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import Encoded
from solotune.modeling.likelihood import score


def gradient(model: torch.nn.Module) -> torch.Tensor:
    embeddings = model.get_input_embeddings()(torch.arange(3, 40)[None]).detach().requires_grad_()
    model.train()
    model(inputs_embeds=embeddings, labels=torch.arange(3, 40)[None]).loss.backward()
    assert embeddings.grad is not None
    return embeddings.grad.clone()


def test_an_evaluation_leaves_the_gradients_of_4_bit_layers_as_they_were(tiny_model: Path) -> None:
    """bitsandbytes 0.50 repacks weights for inference on some processors, and the gradient is lost from then on."""
    config = make_config(quantization={})
    model = load_base_model(ModelDir(tiny_model), config)
    before = gradient(model)
    score(model, [Encoded(list(range(3, 30)), list(range(3, 30)))], config)
    assert torch.equal(gradient(model), before)
    assert before.abs().sum() > 0


def test_quantisation_is_what_the_config_says(tiny_model: Path) -> None:
    import bitsandbytes

    quantised = load_base_model(ModelDir(tiny_model), make_config(quantization={}))
    layers = [m for m in quantised.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 14
    state = layers[0].weight.quant_state
    assert (state.quant_type, state.nested, layers[0].compute_dtype) == ("nf4", True, torch.bfloat16)
    plain = load_base_model(ModelDir(tiny_model), make_config())
    assert not any(isinstance(m, bitsandbytes.nn.Linear4bit) for m in plain.modules())


def test_generation_settings_of_the_base_model_are_dropped(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.3, "temperature": 0.6, "do_sample": true}')
    model = load_base_model(ModelDir(folder), make_config())
    assert model.generation_config.repetition_penalty in (None, 1.0)
