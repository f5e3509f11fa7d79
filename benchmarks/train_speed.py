"""Training speed beside other tools, on one GPU: the same random 8B model, the same rows, the same cap on memory.

    python -P benchmarks/train_speed.py --tokenizer FOLDER --out FOLDER [--seconds 545] [--only NAME …]
    python -P benchmarks/train_speed.py --tokenizer FOLDER --out FOLDER --agree
    ... --small: a narrow model on a processor, to try the way; --peers-from FOLDER: where else Python finds peers

QLoRA (NF4, r=16 on all linear layers, no dropout), bfloat16, at most 2,048 tokens, 23 GiB of the card. Ours goes
through its own stages, fetch, prepare and train, each the command that users start; the others get the ids and labels
that our encoder made of those rows. `dense`: each row has exactly 2,048 tokens. `real`: lengths are log-normal (median
200, at most 2,048). Nearly all tokens have a label.

Every measurement is a process of its own with a time limit, the most important first; one that fails stops nothing,
and none is begun that could not end in time. Tokens are real ones, padding apart. A step's time is wall time from its
end to the next step's end, whatever happens between: for ours taken from outside, when its line appears in
metrics.jsonl; for the others at a callback, after a synchronisation. The first steps (compiling, warming up) don't
count.

`--agree`: the loss of 20 steps on learnable rows, ours beside plain TRL and PEFT (every row padded by itself, sdpa, no
packing; the same rows in the same order in each step, the same first adapter); and, for the size of bfloat16's noise,
the plain path once more with another micro-batch.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import importlib.metadata
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).resolve().parent)]
GIB = 2**30
CAP_GIB = 23.0
SHAPE = "llama-3.1-8b"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OPTIMISER_STEPS = 14
SEQUENCES = 8
"""In one of our optimiser steps: the default of the configs for 8B models."""
LEARNABLE_WORDS = 64
RESULTS = "train_speed.jsonl"

# name -> what, and seconds that it may take; the order is that of importance.
MEASUREMENTS: dict[str, tuple[dict[str, Any], float]] = {
    "solotune, dense, strict": ({"tool": "solotune", "rows": "dense", "determinism": "strict"}, 110),
    "Unsloth, dense, micro-batch 8": ({"tool": "unsloth", "rows": "dense", "batch": 8, "steps": 10}, 130),
    "solotune, real, strict": ({"tool": "solotune", "rows": "real", "determinism": "strict"}, 100),
    "Unsloth, real, packed": ({"tool": "unsloth", "rows": "real", "batch": 2, "packing": True, "steps": 16}, 80),
    "TRL, real, padded, micro-batch 8": ({"tool": "trl", "rows": "real", "batch": 8, "steps": 13}, 70),
    "Unsloth, dense, micro-batch 4": ({"tool": "unsloth", "rows": "dense", "batch": 4, "steps": 12}, 80),
    "Unsloth, dense, micro-batch 16": ({"tool": "unsloth", "rows": "dense", "batch": 16, "steps": 9}, 110),
    "solotune, dense, seeded": ({"tool": "solotune", "rows": "dense", "determinism": "seeded"}, 90),
    "solotune, real, seeded": ({"tool": "solotune", "rows": "real", "determinism": "seeded"}, 90),
    "TRL, dense, micro-batch 2": ({"tool": "trl", "rows": "dense", "batch": 2, "steps": 14}, 60),
    "Unsloth, dense, micro-batch 2": ({"tool": "unsloth", "rows": "dense", "batch": 2, "steps": 14}, 70),
}
SOLOTUNE_WARM, PEER_WARM = 4, 4
AT_LEAST = 45.0
"""Seconds under which no measurement ends."""


def main() -> int:
    """Prints the table; exit code 1 when nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "train_speed")
    parser.add_argument("--seconds", type=float, default=545, help="in which all must end")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), default=list(MEASUREMENTS))
    parser.add_argument("--agree", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--peers-from", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        {"dump": dump, "peer": peer, "plain": plain}[json.loads(given.worker)["do"]](given, json.loads(given.worker))
        return 0
    bench = Bench(given)
    bench.make()
    found = bench.agree() if given.agree else bench.measure()
    bench.report(found)
    return 0 if any("error" not in one for one in found) else 1


class Bench:
    """A workspace with model and rows, and what is run in it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.start = time.monotonic()
        self.work: Path = given.work.resolve()
        self.out: Path = given.out.resolve()
        self.tokenizer: Path = given.tokenizer.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        (self.work / "data" / "raw").mkdir(parents=True, exist_ok=True)
        self.log = self.out / ("train_agree.log" if given.agree else "train_speed.log")
        self.log.unlink(missing_ok=True)
        self.kinds = ["learnable"] if given.agree else ["dense", "real"]
        self.max_length = 128 if given.small else 2048
        self.seconds: dict[str, float] = {}

    @property
    def left(self) -> float:
        return self.given.seconds - (time.monotonic() - self.start)

    def make(self) -> None:
        """Model, rows, splits and the ids for the others; what is there already stays."""
        model = self.work / "random-model"
        shutil.rmtree(self.work / "runs", ignore_errors=True)
        for kind in self.kinds:
            self._write_rows(kind)
            (self.work / f"{kind}.json").write_text(json.dumps(self._config(kind), indent=1))
        if not (model / "config.json").exists():
            shape = ["--tokenizer", str(self.tokenizer), "--write", SHAPE, str(model)]
            small = ["--small"] if self.given.small else []
            self._must("make the model", [str(ROOT / "benchmarks" / "train_memory.py"), *shape, *small])
        self._must("fetch", ["-m", "solotune", "fetch", "--config", f"{self.kinds[0]}.json"])
        for kind in self.kinds:
            self._must(f"prepare {kind}", ["-m", "solotune", "prepare", "--config", f"{kind}.json"])
        self._must("dump ids", self._worker({"do": "dump", "kinds": self.kinds}))
        os.sync()  # 30 GB that the system still writes would slow the first measurement

    def measure(self) -> list[dict[str, Any]]:
        """Every measurement, as far as there is time."""
        found = []
        for name in self.given.only:
            what, limit = MEASUREMENTS[name]
            record = {"name": name, **what}
            if self.left < AT_LEAST and not self.given.small:
                record["error"] = "not measured: no time"
            else:
                limit = 600 if self.given.small else min(limit, self.left)
                start = time.monotonic()
                try:
                    way = self._ours if what["tool"] == "solotune" else self._peer
                    record |= way(name, what, limit)
                except (RuntimeError, OSError, ValueError, KeyError, IndexError) as error:
                    record["error"] = f"{type(error).__name__}: {error}"[-600:]
                record["process_seconds"] = round(time.monotonic() - start, 1)
            found.append(record)
            self._append(record)
            self.report(found, table=False)
        return found

    def agree(self) -> list[dict[str, Any]]:
        """Losses of the fast path and of the plain one, twice."""
        steps = 4 if self.given.small else 20
        ours = self._ours("agree", {"rows": "learnable", "determinism": "strict", "steps": steps}, 150, trial=steps)
        layout, order = ours["layout"], ours.pop("order")
        found: list[dict[str, Any]] = [{"name": "solotune, packed", **ours}]
        self._append(found[0])
        batches = {"TRL, unpacked": layout["sequences"], "TRL, unpacked, other micro-batch": 0}
        batches["TRL, unpacked, other micro-batch"] = 1 if layout["sequences"] > 1 else 2
        for name, batch in batches.items():
            record: dict[str, Any] = {"name": name, "packs_in_a_micro_batch": batch}
            told = {"do": "plain", "kind": "learnable", "batch": batch, "steps": steps}
            told["accumulation"] = layout["sequences"] * layout["accumulation"] // batch
            try:
                limit = 600 if self.given.small else min(170.0, self.left)
                record |= self._result(name, self._worker(told), limit)
                record["same_rows_in_each_step"] = record.pop("order") == order or (
                    None if batch != layout["sequences"] else False
                )
            except RuntimeError as error:
                record["error"] = str(error)[-600:]
            found.append(record)
            self._append(record)
        losses = [one.get("losses", []) for one in found]
        for number, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            if losses[a] and losses[b]:
                apart = [abs(x - y) for x, y in zip(losses[a], losses[b], strict=True)]
                record = {
                    "name": f"difference: {found[a]['name']} / {found[b]['name']}",
                    "noise": number == 2,
                    "max_difference": max(apart),
                    "mean_difference": statistics.fmean(apart),
                }
                found.append(record)
                self._append(record)
        return found

    def report(self, found: list[dict[str, Any]], *, table: bool = True) -> None:
        """One JSON file with all; the table goes to the terminal."""
        from solotune import environment

        libraries = environment.library_versions()
        for name in ("unsloth", "unsloth_zoo", "liger_kernel", "torchao", "xformers", "flash_attn"):
            try:
                libraries[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        whole = {
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "script": "benchmarks/train_speed.py" + (" --agree" if self.given.agree else ""),
            "device": environment.gpus(),
            "libraries": libraries,
            "source_sha256": environment.source_sha256(ROOT / "src" / "solotune"),
            "cap_gib": CAP_GIB,
            "model": f"random weights, shapes of {SHAPE}" if not self.given.small else "small",
            "configs": {kind: self._config(kind) for kind in self.kinds},
            "rows": json.loads((self.work / "facts.json").read_text()),
            "seconds": self.seconds | {"all": round(time.monotonic() - self.start, 1)},
            "runs": found,
        }
        file = self.out / ("train_agree.json" if self.given.agree else "train_speed.json")
        file.write_text(json.dumps(whole, indent=1) + "\n")
        if table:
            print(_agree_table(found) if self.given.agree else _table(found))
            print(f"{time.monotonic() - self.start:.0f} s in all; {file}", flush=True)

    def _config(self, kind: str) -> dict[str, Any]:
        small, learnable = self.given.small, kind == "learnable"
        # --agree takes fewer sequences a step: padded one by one, its rows are many times as many positions.
        sequences = 2 if learnable or small else SEQUENCES
        return {
            "name": f"speed-{kind}",
            "seed": 0,
            "device": "cpu" if small else "cuda",
            "dataset": {
                "raw_files": [f"data/raw/{kind}.jsonl"],
                "splits_dir": f"data/splits/{kind}",
                "val_fraction": 0.0,
                "test_fraction": 0.0,
                "dedup": {"near": "off"},
            },
            "model": {"name_or_path": "random-model", "source": "folder"},
            "lora": {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"},
            "quantization": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
            "training": {
                "max_length": self.max_length,
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": sequences,
                "max_steps": 20 if learnable else OPTIMISER_STEPS,
                "learning_rate": 5e-4 if learnable else 2e-4,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
                "eval_steps": 0,
                "save_steps": 1000,
            },
            "card": {"vram_gib": None if small else CAP_GIB},
            "evaluation": {"metrics": []},
        }

    def _write_rows(self, kind: str) -> None:
        file = self.work / "data" / "raw" / f"{kind}.jsonl"
        if file.exists():
            return
        from solotune.artifacts.model_dir import ModelDir
        from solotune.modeling.chat import ChatEncoder

        encoder = ChatEncoder.open(ModelDir(self.tokenizer))
        words = single_token_words(encoder)
        draw = random.Random(0)
        small = self.given.small
        count = {"dense": 14 if small else 8 * 16, "real": 60 if small else 1000, "learnable": 60 if small else 900}[
            kind
        ]
        lines, wrong = [], 0
        for number in range(count):
            length = self.max_length
            if kind != "dense":
                longest = self.max_length if kind == "real" else self.max_length // 4
                length = max(32, min(longest, int(draw.lognormvariate(5.3, 0.8))))
            row = row_of(encoder, words, length, draw, learnable=kind == "learnable")
            wrong += len(encoder.encode(_turns(row)).input_ids) != length
            meta = {"split": "train", "group": str(number)}
            lines.append(json.dumps({"id": f"{kind}-{number}", "messages": row, "meta": meta}) + "\n")
        assert not wrong, f"{wrong} rows haven't the length that was wanted"
        file.write_text("".join(lines))

    def _ours(self, name: str, what: dict[str, Any], limit: float, trial: int | None = None) -> dict[str, Any]:
        run_id = f"20260101-000000-speed-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        root = self.work / "runs" if trial is None else self.work / "trial"
        shutil.rmtree(root / run_id, ignore_errors=True)
        command = ["-m", "solotune", "train", "--config", f"{what['rows']}.json", "--run-id", run_id]
        command += ["--set", f"determinism={what['determinism']}"]
        if self.given.small:
            command += ["--set", f"training.max_steps={what.get('steps', 6)}"]
        if trial:
            command += ["--trial", str(root), "--until", str(trial)]
        metrics, seen = root / run_id / "metrics.jsonl", []

        def look() -> None:
            """Notes when a line appears; every two thousandths of a second."""
            if metrics.exists():
                lines = metrics.read_bytes().count(b"\n")
                seen.extend([time.perf_counter()] * (lines - len(seen)))

        self._run(name, command, limit, look)
        look()
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        manifest = json.loads((root / run_id / "manifest.json").read_text())
        walls = [b - a for a, b in itertools.pairwise(seen)]
        warm = min(SOLOTUNE_WARM, len(lines) - 2)
        tokens = [line["tokens"] for line in lines]
        rehearsal = manifest["rehearsal"]
        record = {
            **_rates(walls[warm - 1 :], tokens[warm:]),
            "own_seconds": [line["seconds"] for line in lines],
            "peak_allocated_gib": _gib(max((line.get("vram_bytes") or 0) for line in lines)),
            "peak_reserved_gib": _gib(rehearsal["reserved_bytes"]),
            "losses": [line["loss"] for line in lines],
            "layout": manifest["layout"],
            "rehearsal": rehearsal,
            "data": {k: v for k, v in manifest["data"]["train"].items() if isinstance(v, int)},
        }
        if manifest["outcome"]:
            record["adapter_sha256"] = manifest["outcome"]["adapter"]["adapter_model.safetensors"]["sha256"]
        if trial:
            prints = (root / run_id / "fingerprints.jsonl").read_text().splitlines()
            record["order"] = [json.loads(line)["order_sha256"] for line in prints]
        return record

    def _peer(self, name: str, what: dict[str, Any], limit: float) -> dict[str, Any]:
        return self._result(name, self._worker({"do": "peer", **what}), limit)

    def _worker(self, told: dict[str, Any]) -> list[str]:
        command = [__file__, "--worker", json.dumps(told), "--tokenizer", str(self.tokenizer), "--work", str(self.work)]
        return command + (["--small"] if self.given.small else [])

    def _result(self, name: str, command: Sequence[str], limit: float) -> dict[str, Any]:
        result = self.work / "result.json"
        result.unlink(missing_ok=True)
        self._run(name, command, limit)
        found: dict[str, Any] = json.loads(result.read_text())
        return found

    def _must(self, name: str, command: Sequence[str]) -> None:
        start = time.monotonic()
        self._run(name, command, 600 if self.given.small else 150)
        self.seconds[name] = round(time.monotonic() - start, 1)

    def _run(self, name: str, command: Sequence[str], limit: float, look: Callable[[], None] | None = None) -> None:
        """A Python program in the workspace; its output goes to the log.

        Raises:
            RuntimeError: it failed or took too long, with its last lines.
        """
        others = [str(self.given.peers_from)] if self.given.peers_from else []
        path = os.pathsep.join([str(ROOT / "src"), *others, *filter(None, [os.environ.get("PYTHONPATH")])])
        print(f"[{time.monotonic() - self.start:4.0f} s] {name}", flush=True)
        with self.log.open("a+") as log:
            log.write(f"\n=== {name}: {' '.join(command)}\n")
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-P", *command],
                cwd=self.work,
                env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            until = time.monotonic() + limit
            try:
                while process.poll() is None and time.monotonic() < until:
                    if look:
                        look()
                    time.sleep(0.002)
            finally:
                ended = process.poll()
                if ended is None:
                    process.kill()
                    process.wait()
            if ended != 0:
                log.seek(begin)
                last = log.read()[-1500:]
                why = f"took longer than {limit:.0f} s" if ended is None else f"exit code {ended}"
                print(f"{name}: {why}\n{last}", flush=True)
                raise RuntimeError(f"{name}: {why}: {last[-500:]}")

    def _append(self, record: dict[str, Any]) -> None:
        with (self.out / RESULTS).open("a") as file:
            file.write(json.dumps(record) + "\n")


def single_token_words(encoder: Any) -> list[str]:
    """Words that are one token each behind a space, and as the first word of a content."""
    tokenizer = encoder._real
    vocabulary = sorted(tokenizer.get_vocab())
    words = [word[1:] for word in vocabulary if word.startswith("Ġ") and word[1:].isascii() and word[1:].isalpha()]
    words = [word for word in words if word.islower() and len(word) > 3]
    good = [word for word in words if all(len(tokenizer.encode(text).ids) == 1 for text in (word, " " + word))]
    assert len(good) > 2 * LEARNABLE_WORDS, "the tokenizer has too few whole words"
    return good


def row_of(
    encoder: Any, words: Sequence[str], length: int, draw: random.Random, *, learnable: bool
) -> list[dict[str, str]]:
    """Turns of exactly that many tokens, nearly all of them the assistant's."""
    system = {"role": "system", "content": words[0]}
    user = {"role": "user", "content": draw.choice(words)}

    def turns(count: int) -> list[dict[str, str]]:
        if learnable:
            at = [draw.randrange(LEARNABLE_WORDS)]
            while len(at) < count:  # each word is one of two that may follow the one before
                at.append((at[-1] * 7 + draw.choice((1, 5))) % LEARNABLE_WORDS)
            said = [words[i] for i in at]
        else:
            said = [draw.choice(words) for _ in range(count)]
        return [system, user, {"role": "assistant", "content": " ".join(said)}]

    around = len(encoder.encode(_turns(turns(1))).input_ids) - 1
    return turns(length - around)


def _turns(row: Sequence[dict[str, str]]) -> list[Any]:
    from solotune.dataset.contract import Message

    return [Message(**turn) for turn in row]


def dump(given: argparse.Namespace, told: dict[str, Any]) -> None:
    """The rows of each split as our encoder makes them: a line each, `input_ids` and `labels`."""
    from solotune.artifacts.model_dir import ModelDir
    from solotune.artifacts.splits_dir import SplitsDir
    from solotune.config.load import load
    from solotune.dataset.stored import read_rows
    from solotune.modeling.chat import ChatEncoder

    facts = {}
    for kind in told["kinds"]:
        config = load(given.work / f"{kind}.json")
        encoder = ChatEncoder.open(ModelDir.of(config.model))
        encoded = [
            encoder.encode(row.messages) for row in read_rows(SplitsDir(Path(config.dataset.splits_dir)).split("train"))
        ]
        lines = [json.dumps({"input_ids": row.input_ids, "labels": row.labels}) + "\n" for row in encoded]
        (given.work / f"{kind}.ids.jsonl").write_text("".join(lines))
        lengths = [len(row.input_ids) for row in encoded]
        facts[kind] = {
            "rows": len(lengths),
            "tokens": sum(lengths),
            "trained_tokens": sum(row.trained_tokens for row in encoded),
            "shortest": min(lengths),
            "median": statistics.median(lengths),
            "longest": max(lengths),
        }
    (given.work / "facts.json").write_text(json.dumps(facts))


def _read_ids(work: Path, kind: str) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in (work / f"{kind}.ids.jsonl").read_text().splitlines()]


def _process(small: bool) -> None:
    os.environ.update(
        HF_HUB_OFFLINE="1",
        UNSLOTH_DISABLE_STATISTICS="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="false",
    )
    if small:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _capped() -> None:
    import torch

    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_GIB * GIB / total))


def _base(folder: Path) -> tuple[Any, Any]:
    """The model in 4 bits as transformers loads it, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        attn_implementation="sdpa",
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    for module in model.modules():  # see solotune.modeling.base_model.keep_cpu_gradients
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model, AutoTokenizer.from_pretrained(folder)


def peer(given: argparse.Namespace, told: dict[str, Any]) -> None:
    """Unsloth, or TRL with its defaults; the rows as they were dumped."""
    _process(given.small)
    folder = given.work / "random-model"
    length = 128 if given.small else 2048
    lora = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "bias": "none", "target_modules": LINEAR}
    more: dict[str, Any] = {}
    if told["tool"] == "unsloth":
        import torch
        from unsloth import FastLanguageModel

        _capped()
        model, tokenizer = FastLanguageModel.from_pretrained(
            str(folder), max_seq_length=length, load_in_4bit=True, dtype=torch.bfloat16
        )
        model = FastLanguageModel.get_peft_model(model, use_gradient_checkpointing="unsloth", random_state=0, **lora)
    else:
        import peft
        import torch

        _capped()
        model, tokenizer = _base(folder)
        more["peft_config"] = peft.LoraConfig(**lora, task_type="CAUSAL_LM")
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    times: list[float] = []
    losses: list[float] = []

    on_gpu = torch.cuda.is_available()

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter())

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    packing = bool(told.get("packing"))
    steps = 6 if given.small else told["steps"]
    settings = {"packing": True, "packing_strategy": "bfd"} if packing else {}
    args = trl.SFTConfig(
        output_dir=str(given.work / "peer"),
        per_device_train_batch_size=told["batch"],
        gradient_accumulation_steps=1,
        max_steps=steps,
        max_length=length,
        bf16=True,
        use_cpu=given.small,
        gradient_checkpointing=True,
        optim="adamw_torch_fused" if given.small else "adamw_8bit",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        learning_rate=2e-4,
        seed=0,
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": not packing},
        **settings,
    )
    rows = Dataset.from_list(_read_ids(given.work, told["rows"]))
    trainer = trl.SFTTrainer(
        model=model, args=args, train_dataset=rows, processing_class=tokenizer, callbacks=[Clock()], **more
    )
    tokens: list[int] = []
    labelled: list[int] = []
    upstream = trainer.compute_loss

    def counted(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        real = mask.sum() if mask is not None and mask.dim() == 2 else inputs["input_ids"].numel()
        tokens.append(int(real))
        if "labels" in inputs:
            labelled.append(int((inputs["labels"] != -100).sum()))
        return upstream(model, inputs, *args, **kwargs)

    trainer.compute_loss = counted
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    walls = [b - a for a, b in itertools.pairwise(times)]
    warm = min(PEER_WARM, steps - 2)
    record = {
        **_rates(walls[warm - 1 :], tokens[warm:]),
        "labelled_tokens": labelled,
        "peak_allocated_gib": _gib(torch.cuda.max_memory_allocated() if on_gpu else None),
        "peak_reserved_gib": _gib(torch.cuda.max_memory_reserved() if on_gpu else None),
        "losses": losses,
        "trainer": type(trainer).__module__,
        "attention": getattr(model.config, "_attn_implementation", None),
        "adapter_dtype": sorted({str(p.dtype) for p in trainer.model.parameters() if p.requires_grad}),
        "optim": args.optim if isinstance(args.optim, str) else args.optim.value,
    }
    (given.work / "result.json").write_text(json.dumps(record))


def plain(given: argparse.Namespace, told: dict[str, Any]) -> None:
    """Plain TRL and PEFT on the rows that the packs hold, each padded by itself.

    Upstream's sampler draws numbers of packs here as it draws packs there, from the same seed: the same order.
    """
    _process(given.small)
    import peft
    import torch
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    from solotune.config.load import load
    from solotune.modeling import determinism
    from solotune.modeling.chat import Encoded
    from solotune.modeling.lora import keep_float32
    from solotune.modeling.packing import pack

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    config = load(given.work / f"{told['kind']}.json")
    rows = [Encoded(**row) for row in _read_ids(given.work, told["kind"])]
    packs = pack([len(row.input_ids) for row in rows], config.training.max_length, config.seed)
    determinism.start(config)
    model, tokenizer = _base(given.work / "random-model")
    losses: list[float] = []
    seen: list[list[int]] = []

    class Log(TrainerCallback):
        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    def collate(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
        numbers = [row for one in chosen for row in packs[one["pack"]]]
        longest = max(len(rows[i].input_ids) for i in numbers)
        batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for row in (rows[i] for i in numbers):
            missing = longest - len(row.input_ids)
            batch["input_ids"].append([*row.input_ids, *[0] * missing])
            batch["labels"].append([*row.labels, *[-100] * missing])
            batch["attention_mask"].append([1] * len(row.input_ids) + [0] * missing)
        seen.append(numbers)
        return {name: torch.tensor(values) for name, values in batch.items()}

    training = config.training
    args = trl.SFTConfig(
        output_dir=str(given.work / "plain"),
        per_device_train_batch_size=told["batch"],
        gradient_accumulation_steps=told["accumulation"],
        max_steps=told["steps"],
        max_length=None,
        bf16=True,
        use_cpu=given.small,
        gradient_checkpointing=True,
        optim=training.optim,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=0,
        max_grad_norm=training.max_grad_norm,
        weight_decay=training.weight_decay,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=config.seed,
        data_seed=config.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    lora = peft.LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.lora_alpha, target_modules=LINEAR, bias="none", task_type="CAUSAL_LM"
    )
    trainer = trl.SFTTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_list([{"input_ids": [1, 2], "labels": [1, 2]}]),
        processing_class=tokenizer,
        data_collator=collate,
        callbacks=[Log()],
        peft_config=lora,
    )
    trainer.train_dataset = Dataset.from_list([{"pack": i} for i in range(len(packs))])
    # In float32, as ours; its first values come from the seed, in PEFT's order of modules, as ours do.
    keep_float32(trainer.model)
    trainer.train()
    each = told["accumulation"]
    steps = [[row for batch in seen[i * each : (i + 1) * each] for row in batch] for i in range(told["steps"])]
    order = [hashlib.sha256(repr(step).encode()).hexdigest() for step in steps]
    (given.work / "result.json").write_text(json.dumps({"losses": losses, "order": order}))


def _rates(walls: Sequence[float], tokens: Sequence[int]) -> dict[str, Any]:
    """Tokens a second by the mean and by the median of the steps' wall times."""
    assert len(walls) == len(tokens) > 0, f"{len(walls)} times for {len(tokens)} steps"
    a_step = statistics.fmean(tokens)
    return {
        "tokens_per_second": round(sum(tokens) / sum(walls), 1),
        "tokens_per_second_median": round(a_step / statistics.median(walls), 1),
        "step_seconds_median": round(statistics.median(walls), 4),
        "step_seconds_mean": round(statistics.fmean(walls), 4),
        "step_seconds": [round(wall, 4) for wall in walls],
        "tokens_a_step": round(a_step),
    }


def _gib(size: float | None) -> float | None:
    return None if not size else round(size / GIB, 2)


def _table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'':<36}{'tok/s':>9}{'by median':>11}{'step s':>9}{'tokens':>9}{'peak':>8}{'reserved':>10}"]
    for one in found:
        if "error" in one:
            lines.append(f"{one['name']:<36}  {' '.join(one['error'].split())[:90]}")
            continue
        lines.append(
            f"{one['name']:<36}{one['tokens_per_second']:>9,.0f}{one['tokens_per_second_median']:>11,.0f}"
            f"{one['step_seconds_median']:>9.3f}{one['tokens_a_step']:>9,}"
            f"{one['peak_allocated_gib'] or 0:>8.2f}{one['peak_reserved_gib'] or 0:>10.2f}"
        )
    by_name = {one["name"]: one for one in found if "error" not in one}
    for rows, ours in (("dense", "solotune, dense, strict"), ("real", "solotune, real, strict")):
        peers = [one for one in by_name.values() if one["rows"] == rows and one["tool"] != "solotune"]
        if ours in by_name:
            for one in sorted(peers, key=lambda one: -one["tokens_per_second"]):
                ratio = by_name[ours]["tokens_per_second"] / one["tokens_per_second"]
                lines.append(f"{ours} is {ratio:.2f} times {one['name']}")
            seeded = by_name.get(ours.replace("strict", "seeded"))
            if seeded:
                slower = 100 * (seeded["tokens_per_second"] / by_name[ours]["tokens_per_second"] - 1)
                lines.append(f"{ours} takes {slower:+.1f} % more time than seeded")
    return "\n".join(lines)


def _agree_table(found: list[dict[str, Any]]) -> str:
    lines = []
    for one in found:
        if "max_difference" in one:
            noise = " (noise)" if one["noise"] else ""
            apart = f"at most {one['max_difference']:.5f}, mean {one['mean_difference']:.5f}"
            lines.append(f"{one['name']}{noise}: {apart}")
        elif "losses" in one:
            same = f" (same rows: {one['same_rows_in_each_step']})" if "same_rows_in_each_step" in one else ""
            lines.append(f"{one['name']}{same}: {' '.join(f'{loss:.4f}' for loss in one['losses'])}")
        else:
            lines.append(f"{one['name']}: {one['error'][:200]}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
