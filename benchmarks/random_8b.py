"""Writes a random model with the shapes of Llama 3.1 8B, and a given tokenizer: `random_8b.py TOKENIZER_FOLDER FOLDER`.

Memory and speed depend on shapes, not on what the weights know. Needs a GPU with 16 GiB to draw them quickly.
"""

import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

if __name__ == "__main__":
    tokenizer, folder = map(Path, sys.argv[1:3])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="4GB")
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
