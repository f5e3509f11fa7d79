"""The smallest real model that the whole chain can run on, and an experiment with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(folder: Path) -> None:
    """Writes a byte-level BPE of 400 tokens with ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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


def make_model(folder: Path, tokenizer: Path) -> None:
    """Writes a random two-layer Llama of 64 hidden units, as somebody would bring it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)


def make_experiment(workspace: Path, model: Path) -> Path:
    """Writes 60 raw rows and small.yaml, a config for the tiny model: QLoRA on the CPU, six steps."""
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
model: {{name_or_path: {model}, source: folder}}
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
# Of a random model the likeliest token hangs on rounding.
export: {{max_loss_difference: 0.05, min_greedy_agreement: 0.8}}
"""
    )
    return config
