"""Answers and scores of held-out rows a second: ours beside a naive loop over `generate`, on the same model and rows.

    python benchmarks/eval_speed.py --config CONFIG --batch-sizes 16 32 64 --json found.json

The model is the config's with a fresh adapter, loaded as `evaluate` loads it; the rows are those of its evaluation
split, repeated to --rows. The naive loop takes one row at a time: `generate` for the answer, a forward pass of the
whole row for its loss. Both answer with --new-tokens exactly (the stop token is forbidden): the same work.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
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
    for found in measure(config, arguments):  # written after each: a time limit shouldn't take all
        *_, (name, figures) = found["measured"].items()
        print(f"{name:28} {figures['tokens_per_second']:10,.1f} tokens/s  {figures['times_naive']:6.1f} x", flush=True)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def measure(config: Any, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Tokens a second of each way, and how many times the naive one that is; what is known after each."""
    from solotune.environment import gpus, library_versions

    bench = _Bench(config, arguments.rows, arguments.new_tokens)
    ways: dict[str, Callable[[], float]] = {
        "scores, naive": bench.naive_scores,
        "scores, packed": bench.scores,
        "answers, naive": lambda: bench.naive_answers(arguments.naive_rows),
        **{f"answers, {size} at once": partial(bench.answers, size) for size in arguments.batch_sizes},
    }
    measured: dict[str, float] = {}
    for name, way in ways.items():
        measured[name] = way()
        yield {
            "gpu": gpus(),
            "libraries": library_versions(),
            "date": time.strftime("%Y-%m-%d"),
            "config": config.name,
            "rows": arguments.rows,
            "new_tokens": arguments.new_tokens,
            "measured": {
                name: {
                    "tokens_per_second": round(rate, 1),
                    "times_naive": round(rate / measured[f"{name.split(',')[0]}, naive"], 2),
                }
                for name, rate in measured.items()
            },
        }


class _Bench:
    """The model, loaded as `evaluate` loads it, and the rows."""

    def __init__(self, config: Any, rows: int, new_tokens: int) -> None:
        import peft
        import torch

        from solotune.artifacts.model_dir import ModelDir
        from solotune.artifacts.splits_dir import SplitsDir
        from solotune.dataset.stored import read_rows
        from solotune.modeling import card, determinism
        from solotune.modeling.base_model import load_base_model
        from solotune.modeling.chat import ChatEncoder
        from solotune.modeling.lora import peft_config

        card.enforce(config)
        determinism.start(config)
        self.torch, self.config, self.new_tokens = torch, config, new_tokens
        base = ModelDir.of(config.model)
        self.encoder = ChatEncoder.open(base, config.model.chat_template_path)
        self.model = peft.get_peft_model(load_base_model(base, config), peft_config(config.lora, config.model)).eval()
        found = list(read_rows(SplitsDir(Path(config.dataset.splits_dir)).split(config.evaluation.split)))
        found = (found * -(-rows // len(found)))[:rows]
        self.rows = [tokens.with_labels() for tokens in self.encoder.encode_batch([row.messages for row in found])]
        self.prompts = [self.encoder.encode_prompt(row.messages[:-1]) for row in found]
        self.tokens = sum(len(row.input_ids) for row in self.rows)

    def naive_answers(self, rows: int) -> float:
        self._answer(self.prompts[0])
        few = self.prompts[:rows]
        return len(few) * self.new_tokens / self._seconds(lambda: [self._answer(prompt) for prompt in few])

    def answers(self, batch_size: int) -> float:
        from solotune.modeling.generate import generate

        evaluation = self.config.evaluation.model_copy(
            update={"batch_size": batch_size, "max_new_tokens": self.new_tokens}
        )
        config = self.config.model_copy(update={"evaluation": evaluation})
        seconds = self._seconds(lambda: generate(self.model, self.prompts, self.encoder, config, exactly=True))
        return len(self.prompts) * self.new_tokens / seconds

    def naive_scores(self) -> float:
        self._score(self.rows[0])
        return self.tokens / self._seconds(lambda: [self._score(row) for row in self.rows])

    def scores(self) -> float:
        from solotune.modeling.likelihood import score

        score(self.model, self.rows[:8], self.config)
        return self.tokens / self._seconds(lambda: score(self.model, self.rows, self.config))

    def _answer(self, prompt: list[int]) -> None:
        from solotune.modeling.base_model import autocast

        ids = self.torch.tensor([prompt], device=self.model.device)
        new = self.new_tokens
        with self.torch.no_grad(), autocast(self.config):
            self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=self.encoder.pad_id,
                use_cache=True,
            )

    def _score(self, row: Any) -> None:
        from solotune.modeling.base_model import autocast

        ids, labels = (self.torch.tensor([x], device=self.model.device) for x in (row.input_ids, row.labels))
        with self.torch.no_grad(), autocast(self.config):
            self.model(input_ids=ids, labels=labels, use_cache=False).loss.item()

    def _seconds(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.config.device == "cuda":
            self.torch.cuda.synchronize()


if __name__ == "__main__":
    main()
