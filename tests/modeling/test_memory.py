from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling.memory import Shapes, estimate, shapes


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    """Shapes of Llama 3.1 8B, from its config alone."""
    folder = tmp_path_factory.mktemp("llama")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return shapes(ModelDir(folder))


def test_shapes_are_read_without_weights(llama_8b: Shapes) -> None:
    parameters = sum(i * o for _, i, o in llama_8b.linear) + llama_8b.other_parameters
    assert parameters == 8_030_261_248
    assert len(llama_8b.linear) == 32 * 7


@pytest.mark.parametrize(
    ("quantization", "checkpointing", "dropout", "measured"),
    [({}, True, 0.05, 7.20), (None, True, 0.05, 17.02), ({}, False, 0.05, 22.38), ({}, False, 0.0, 18.04)],
)
def test_the_estimate_is_near_the_measured_peak_and_never_under_it(
    llama_8b: Shapes, quantization: object, checkpointing: bool, dropout: float, measured: float
) -> None:
    """torch.cuda.max_memory_allocated on one H100, benchmarks/README.md; CUDA's own memory isn't in it."""
    config = make_config(
        device="cuda",
        quantization=quantization,
        lora={"r": 16, "lora_alpha": 32, "lora_dropout": dropout},
        training={"max_length": 2048, "activation_checkpointing": checkpointing},
    )
    parts = dict(estimate(llama_8b, config).parts)
    parts.pop("CUDA itself")
    assert 0.99 * measured <= sum(parts.values()) / 2**30 <= 1.08 * measured


def test_the_adapter_is_counted_exactly(llama_8b: Shapes) -> None:
    config = make_config(lora={"r": 16, "lora_alpha": 32})
    assert estimate(llama_8b, config).adapter_parameters == 41_943_040
    config = make_config(lora={"r": 8, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]})
    assert estimate(llama_8b, config).adapter_parameters == 32 * 8 * (4096 + 4096 + 4096 + 1024)


def test_no_estimate_for_cuda_on_a_cpu(tiny_model: Path) -> None:
    assert "CUDA itself" not in estimate(shapes(ModelDir(tiny_model)), make_config()).parts
