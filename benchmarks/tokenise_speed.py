"""Tokenising with masks beside `apply_chat_template` alone, and the cache: `tokenise_speed.py TOKENIZER_FOLDER [ROWS]`.

TOKENIZER_FOLDER holds tokenizer.json, tokenizer_config.json and chat_template.jinja, as a folder below models/ does.
Every way gets the same rows and cores; each is timed three times, in turn, and the fastest counts.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from pydoc_data.topics import topics
from unittest.mock import patch

from solotune.artifacts.model_dir import ModelDir
from solotune.dataset.contract import Message, Row, encode
from solotune.dataset.stored import read_rows
from solotune.modeling import chat as chat_module
from solotune.modeling.chat import ChatEncoder, Tokens
from solotune.modeling.token_cache import tokenised

TIMES = 3
AT_ONCE = 4096
_in_process: list[ChatEncoder] = []


def main(folder: Path, count: int) -> None:
    """Prints the table."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    rows = made_rows(count)
    chats = [row.messages for row in rows]
    messages = [[{"role": m.role, "content": m.content} for m in chat] for chat in chats]
    encoder = ChatEncoder.open(ModelDir(folder))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = [chats[i : i + AT_ONCE] for i in range(0, count, AT_ONCE)]

    def upstream() -> list[list[int]]:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        return list(tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"])

    def ours() -> list[Tokens]:
        return [row for part in parts for row in encoder.encode_batch(part)]

    def one_core() -> list[Tokens]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with patch.object(chat_module, "_all_cores", nullcontext):
            return ours()

    def threads() -> list[Tokens]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        with (
            patch.object(chat_module, "_all_cores", nullcontext),
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            return [row for some in pool.map(encoder.encode_batch, parts) for row in some]

    def processes() -> list[Tokens]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        spawn = get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), spawn, _open, (folder,)) as pool:
            return [row for some in pool.map(_encode, parts) for row in some]

    assert [row.ids for row in ours()] == upstream(), "the two don't make the same tokens"
    print(f"{count:,} rows, {sum(len(t.ids) for t in ours()):,} tokens, {os.cpu_count()} cores, load {os.getloadavg()}")
    timed(
        {
            "apply_chat_template, a list of all chats, no mask": upstream,
            "ids and mask, the tokenizer's threads (what train does)": ours,
            "ids and mask, one core": one_core,
            "ids and mask, Python threads": threads,
            "ids and mask, spawned processes": processes,
        },
        count,
    )
    with tempfile.TemporaryDirectory() as temporary:
        cache(Path(temporary), rows, encoder)


def timed(ways: dict[str, Callable[[], object]], count: int) -> None:
    """Fastest wall and processor time of each, taken in turn so that a busy minute hits all of them."""
    best: dict[str, list[float]] = {name: [float("inf")] * 2 for name in ways}
    for _ in range(TIMES):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), _cpu()
            way()
            taken = [time.perf_counter() - wall, _cpu() - cpu]
            best[name] = [min(pair) for pair in zip(best[name], taken, strict=True)]
    reference = next(iter(best.values()))
    for name, (wall, cpu) in best.items():
        print(
            f"  {name:56s} {wall:6.2f} s wall ({wall / reference[0]:.2f}), {cpu:6.2f} s processor "
            f"({cpu / reference[1]:.2f}), {count / wall:8,.0f} rows/s"
        )


def cache(folder: Path, rows: list[Row], encoder: ChatEncoder) -> None:
    """The first run, which fills the cache, and the second."""
    os.environ["SOLOTUNE_CACHE"] = str(folder / "cache")
    split = folder / "train.jsonl"
    split.write_bytes(b"".join(encode(row) + b"\n" for row in rows))
    subprocess.run(["sync", "-d", str(split)], check=True)
    for name in ("cold cache: read, tokenise, write, fsync", "warm cache: hash, map, prove"):
        start = time.perf_counter()
        found = tokenised(split, lambda: (row.messages for row in read_rows(split)), encoder)
        lengths = int(found.lengths.max())
        print(f"  {name:56s} {time.perf_counter() - start:6.2f} s wall (longest row: {lengths:,} tokens)")
    size = sum(file.stat().st_size for file in (folder / "cache").rglob("*.safetensors"))
    print(f"  the file has {size / found.tokens_in_all:.1f} bytes a token")


def made_rows(count: int) -> list[Row]:
    """Chats cut out of Python's own documentation, one in four with two exchanges; the same ones every time."""
    text = "\n".join(topics[name] for name in sorted(topics))
    rng = random.Random(0)

    def content() -> str:
        size = rng.randrange(40, 560)
        start = rng.randrange(len(text) - size)
        return text[start : start + size].strip() or "x"

    def turns(n: int) -> tuple[Message, ...]:
        return tuple(Message("assistant" if i % 2 else "user", content()) for i in range(n))

    return [Row(f"row-{i}", turns(4 if i % 4 == 0 else 2)) for i in range(count)]


def _open(folder: Path) -> None:
    _in_process.append(ChatEncoder.open(ModelDir(folder)))


def _encode(chats: list[tuple[Message, ...]]) -> list[Tokens]:
    return _in_process[0].encode_batch(chats)


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
