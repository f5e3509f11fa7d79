"""Answers and scores of held-out rows a second: ours beside a naive loop over `generate`, on the same model and rows.

    python benchmarks/eval_speed.py --config CONFIG --batch-sizes 16 32 64 --json found.json

The model is the config's with a fresh adapter, loaded as `evaluate` loads it; the rows are those of its evaluation
split, repeated to --rows. The naive loop takes one row at a time: `generate` for the answer, a forward pass of the whole
row for its loss. Both answer with --new-tokens exactly (the stop token is forbidden), so their tokens are the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from solotune.config.load import load
from solotune.environment import prepare_process


def main() -> None:
    """Prints a table, and writes what it saw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--naive-rows", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    config = load(Path(arguments.config), arguments.set)
    prepare_process(device=config.device)
    found = measure(config, arguments)
    for name, figures in found["measured"].items():
        print(f"{name:28} {figures['tokens_per_second']:10,.1f} tokens/s  {figures['times_naive']:6.1f} x")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def measure(config: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each way, and how many times the naive one that is."""
    import peft
    import torch

    from solotune.artifacts.model_dir import ModelDir
    from solotune.artifacts.splits_dir import SplitsDir
    from solotune.dataset.stored import read_rows
    from solotune.environment import gpus, library_versions
    from solotune.modeling import card, determinism
    from solotune.modeling.base_model import autocast, load_base_model
    from solotune.modeling.chat import ChatEncoder
    from solotune.modeling.generate import generate
    from solotune.modeling.likelihood import score
    from solotune.modeling.lora import peft_config

    card.enforce(config)
    determinism.start(config)
    base = ModelDir.of(config.model)
    encoder = ChatEncoder.open(base, config.model.chat_template_path)
    model = peft.get_peft_model(load_base_model(base, config), peft_config(config.lora, config.model)).eval()
    rows = list(read_rows(SplitsDir(Path(config.dataset.splits_dir)).split(config.evaluation.split)))
    rows = (rows * -(-arguments.rows // len(rows)))[: arguments.rows]
    encoded = [tokens.with_labels() for tokens in encoder.encode_batch([row.messages for row in rows])]
    prompts = [encoder.encode_prompt(row.messages[:-1]) for row in rows]
    new = arguments.new_tokens

    def seconds(work: Callable[[], Any]) -> float:
        if config.device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if config.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def answer_one(prompt: list[int]) -> None:
        ids = torch.tensor([prompt], device=model.device)
        with torch.no_grad(), autocast(config):
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new,
                min_new_tokens=new, pad_token_id=encoder.pad_id, use_cache=True,
            )  # fmt: skip

    def score_one(row: Any) -> None:
        ids = torch.tensor([row.input_ids], device=model.device)
        with torch.no_grad(), autocast(config):
            model(input_ids=ids, labels=torch.tensor([row.labels], device=model.device), use_cache=False).loss.item()

    def of(batch_size: int) -> Any:
        evaluation = config.evaluation.model_copy(update={"batch_size": batch_size, "max_new_tokens": new})
        return config.model_copy(update={"evaluation": evaluation})

    few = prompts[: arguments.naive_rows]
    answer_one(few[0])
    naive = len(few) * new / seconds(lambda: [answer_one(prompt) for prompt in few])
    measured = {"answers, naive": {"tokens_per_second": naive, "times_naive": 1.0}}
    for batch_size in arguments.batch_sizes:
        generate(model, prompts[:batch_size], encoder, of(batch_size), exactly=True)
        rate = len(prompts) * new / seconds(lambda n=batch_size: generate(model, prompts, encoder, of(n), exactly=True))
        measured[f"answers, {batch_size} at once"] = {"tokens_per_second": rate, "times_naive": rate / naive}
    tokens = sum(len(row.input_ids) for row in encoded)
    score_one(encoded[0])
    naive = tokens / seconds(lambda: [score_one(row) for row in encoded])
    score(model, encoded[:8], config)
    rate = tokens / seconds(lambda: score(model, encoded, config))
    measured["scores, naive"] = {"tokens_per_second": naive, "times_naive": 1.0}
    measured["scores, packed"] = {"tokens_per_second": rate, "times_naive": rate / naive}
    return {
        "gpu": gpus(),
        "libraries": library_versions(),
        "date": time.strftime("%Y-%m-%d"),
        "config": config.name,
        "rows": len(rows),
        "new_tokens": new,
        "measured": {k: {n: round(v, 2) for n, v in f.items()} for k, f in measured.items()},
    }


if __name__ == "__main__":
    main()
