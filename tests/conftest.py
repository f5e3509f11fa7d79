"""A clean environment, and the smallest real model that the whole chain can run on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(autouse=True)
def clean_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test begins and ends with the same environment variables, offline."""
    before = dict(os.environ)
    for name in ("HF_TOKEN", "SOLOTUNE_COMMAND", "SOLOTUNE_MODELS", "CUDA_VISIBLE_DEVICES"):
        os.environ.pop(name, None)
    os.environ["SOLOTUNE_COMMAND"] = "invoke"
    os.environ["SOLOTUNE_CACHE"] = str(tmp_path_factory.getbasetemp() / "cache")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", CUBLAS_WORKSPACE_CONFIG=":4096:8")
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tokenizer files of a byte-level BPE of 400 tokens with ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(['turn the light on in the kitchen {"tool":"light","room":"kitchen"}'] * 8, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of 64 hidden units, as somebody would bring it."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=400,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in tiny_tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    return folder


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository root, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOLOTUNE_MODELS", raising=False)
    return tmp_path


@pytest.fixture
def small_experiment(workspace: Path, tiny_model: Path) -> Path:
    """A config in the workspace, with 60 raw rows, for the tiny model: QLoRA on the CPU, six steps."""
    raw = workspace / "data" / "raw" / "rows.jsonl"
    raw.parent.mkdir(parents=True)
    rooms = ["kitchen", "hall", "attic", "cellar", "garage"]
    with raw.open("w") as file:
        for i in range(60):
            room, value = rooms[i % 5], i * 7 % 100
            messages = [
                {"role": "user", "content": f"light in the {room} to {value} please"},
                {
                    "role": "assistant",
                    "content": json.dumps({"room": room, "value": value}, separators=(",", ":")),
                },
            ]
            meta = {"tags": ["even" if i % 2 == 0 else "odd"]}
            file.write(json.dumps({"id": f"row-{i}", "messages": messages, "meta": meta}) + "\n")
    config = workspace / "small.yaml"
    config.write_text(
        f"""\
device: cpu
seed: 7
dataset: {{raw_files: [data/raw/rows.jsonl], val_fraction: 0.15, test_fraction: 0.2}}
model: {{name_or_path: {tiny_model}, source: folder}}
lora: {{r: 4, lora_alpha: 8, lora_dropout: 0.1}}
quantization: {{load_in_4bit: true}}
training:
  learning_rate: 0.01
  max_steps: 6
  max_length: 128
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 2
  activation_checkpointing: false
  eval_steps: 3
  save_steps: 2
evaluation: {{metrics: [exact_match, json_valid], max_new_tokens: 8}}
export: {{max_loss_difference: 0.05}}
"""
    )
    return config
