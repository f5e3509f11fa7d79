"""What `plan` says a training step takes of a GPU's memory, beside what it takes.

    python -P benchmarks/train_memory.py --tokenizer FOLDER --out FOLDER [--seconds 190] [--jobs 2] [--small]
    python -P benchmarks/train_memory.py --tokenizer FOLDER --write SHAPE MODEL_FOLDER [--small]

Every model is whole, with random weights, which need as much room as others: it is made on the GPU in bfloat16, and for
QLoRA each linear layer is then put into 4 bits where it lies, with what `load_base_model` leaves. All else is the
product: its estimate, its trainer, two optimiser steps of two full forward passes each. The peak is what torch's
allocator handed out at most, which is what the estimate is of; CUDA's own half gigabyte isn't in it. Each configuration
has a process of its own: what one leaves behind would be counted for the next.

`--write` saves a random model, as somebody would bring it. `--small`: two layers, narrow, for a try on a processor.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3.1-8b": (
        "llama",
        {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    ),
    "llama-3.2-1b": (
        "llama",
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    ),
    "llama-3.2-3b": (
        "llama",
        {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
         "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    ),
    "qwen2.5-0.5b": (
        "qwen2",
        {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
         "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "qwen3-4b": (
        "qwen3",
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "qwen3-8b": (
        "qwen3",
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False},
    ),
}  # fmt: skip
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 49152}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A configuration: `sequences` in a forward pass, the first `recomputed` layers keep only their input."""

    shape: str
    four_bits: bool
    r: int
    max_length: int
    sequences: int
    recomputed: int = 0
    dropout: float = 0.0
    optim: str = "adamw_torch_fused"
    targets: str = "all-linear"
    packing: bool = True

    @property
    def name(self) -> str:
        parts = [
            self.shape,
            "QLoRA" if self.four_bits else "LoRA",
            f"r={self.r}",
            f"{self.sequences} x {self.max_length}",
            f"{self.recomputed} recomputed" if self.recomputed else "",
            f"dropout {self.dropout}" if self.dropout else "",
            self.optim if self.optim != "adamw_torch_fused" else "",
            self.targets if self.targets != "all-linear" else "",
            "" if self.packing else "upstream's step",
        ]
        return ", ".join(part for part in parts if part)


CASES = (
    Case("llama-3.1-8b", True, 16, 2048, 2),
    Case("qwen3-8b", True, 16, 2048, 1, recomputed=12),
    Case("llama-3.1-8b", False, 16, 2048, 1, recomputed=24),
    Case("qwen2.5-0.5b", False, 64, 512, 16),
    Case("llama-3.1-8b", True, 16, 2048, 1, dropout=0.05),
    Case("llama-3.2-1b", False, 16, 1024, 8),
    Case("llama-3.1-8b", True, 64, 4096, 1, recomputed=16, optim="adamw_8bit"),
    Case("qwen3-4b", True, 16, 2048, 2),
    Case("qwen2.5-0.5b", True, 8, 4096, 2, dropout=0.05),
    Case("llama-3.2-3b", False, 8, 4096, 1),
    Case("llama-3.2-1b", True, 64, 512, 8, recomputed=8, optim="adamw_8bit"),
    Case("qwen3-4b", False, 64, 1024, 4, recomputed=12, dropout=0.05, optim="adamw_8bit"),
    Case("qwen3-8b", True, 8, 1024, 4, recomputed=36, dropout=0.05),
    Case("llama-3.2-3b", True, 16, 2048, 2, recomputed=4),
    Case("llama-3.2-1b", False, 16, 2048, 4, targets="q_proj v_proj"),
    Case("llama-3.2-1b", True, 16, 1024, 2, packing=False),
)


def main() -> int:
    """Measures what fits into the time; exit code 1 when nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--seconds", type=float, default=190, help="no configuration is begun after these")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--first", type=int, default=0, help="number of the configuration to begin with")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--write", nargs=2, metavar=("SHAPE", "FOLDER"))
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    if given.write:
        write_model(given.write[0], Path(given.write[1]), given.tokenizer, small=given.small)
        return 0
    if given.worker is not None:
        worker(given)
        return 0
    until = time.time() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    lines = given.out / "train_memory.jsonl"
    lines.unlink(missing_ok=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda number: begin(given, number, until), range(given.first, len(CASES))))
    found = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {one["name"] for one in found}
    found += [{"name": case.name, "error": "not measured: no time"} for case in CASES if case.name not in done]
    found.sort(key=lambda one: [case.name for case in CASES].index(one["name"]))
    write_report(given.out, found)
    return 0 if any("measured_bytes" in one for one in found) else 1


def begin(given: argparse.Namespace, number: int, until: float) -> None:
    """Measures a configuration in a process, unless the time is over."""
    if time.time() > until:
        return
    command = [sys.executable, "-P", __file__, "--worker", str(number), *sys.argv[1:]]
    with (given.out / f"train_memory.{number}.log").open("w") as log, suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=until + 60 - time.time(), check=False)


def write_report(out: Path, found: list[dict[str, Any]]) -> None:
    """The JSON file and the table."""
    from solotune import environment

    report = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "script": "benchmarks/train_memory.py",
        "device": environment.gpus(),
        "libraries": environment.library_versions(),
        "source_sha256": environment.source_sha256(ROOT / "src" / "solotune"),
        "cases": found,
    }
    (out / "train_memory.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{'':<78} predicted  measured   error")
    for one in found:
        if "error" in one:
            print(f"{one['name']:<78} {one['error'][:60]}")
        else:
            print(
                f"{one['name']:<78} {one['predicted_bytes'] / GIB:6.2f}     {one['measured_bytes'] / GIB:6.2f}   "
                f"{one['error_percent']:+6.2f} %"
            )
    errors = [one["error_percent"] for one in found if "error_percent" in one]
    if errors:
        print(f"{len(errors)} measured: from {min(errors):+.2f} to {max(errors):+.2f} %")


def worker(given: argparse.Namespace) -> None:
    """Measures one configuration."""
    from solotune.environment import prepare_process

    device, case = "cpu" if given.small else "cuda", CASES[given.worker]
    prepare_process(device=device)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        try:
            record = measure(case, Path(folder), given.tokenizer, device, small=given.small)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            record = {"name": case.name, **asdict(case), "error": f"{type(error).__name__}: {error}"[:500]}
    record["seconds"] = round(time.monotonic() - start, 1)
    with (given.out / "train_memory.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def measure(case: Case, folder: Path, tokenizer: Path, device: str, *, small: bool) -> dict[str, Any]:
    """Two optimiser steps under the product's trainer; the estimate beside the peak."""
    from solotune.artifacts.model_dir import ModelDir
    from solotune.artifacts.run_manifest import Layout
    from solotune.modeling import gpu_peak, memory

    max_length = 64 if small else case.max_length
    config = run_config(case, max_length, device)
    layers = model_config(case.shape, small=small).num_hidden_layers
    fixed_shape = case.packing  # on a processor, too: the same code but for the kernels
    layout = Layout(case.sequences, 2, min(case.recomputed, layers) if case.packing else layers, fixed_shape)
    rows = full_rows(4 * case.sequences, max_length, vocabulary=40_000)
    trainer = trainer_of(config, layout, rows, folder, tokenizer, small=small)
    predicted = memory.estimate(memory.shapes(ModelDir(folder / case.shape)), config, layout)
    if device == "cuda":
        gpu_peak.reset()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    record = {
        "name": case.name,
        **asdict(case),
        "losses": losses,
        "predicted_bytes": round(predicted.total),
        "parts": {part: round(size) for part, size in predicted.parts.items()},
    }
    if device == "cuda":
        measured = gpu_peak.peak_bytes()
        record["reserved_bytes"] = gpu_peak.reserved_bytes()
    else:
        measured = round(predicted.total)  # nothing is counted there; the way to here is what is tried
    record["measured_bytes"] = measured
    record["error_percent"] = round(100 * (predicted.total / measured - 1), 3)
    return record


def trainer_of(config: Any, layout: Any, rows: list[Any], folder: Path, tokenizer: Path, *, small: bool = False) -> Any:
    """The product's trainer, which saves nothing here, on a random model of the config's shape, in this folder."""
    from solotune.artifacts.model_dir import ModelDir
    from solotune.artifacts.run_dir import RunDir
    from solotune.modeling import determinism
    from solotune.modeling.trainer import AdapterTrainer

    class Unsaved(AdapterTrainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """Takes seconds, and no memory of the GPU."""

    shape = config.model.name_or_path
    base = ModelDir(folder / shape)
    shutil.copytree(tokenizer, base.path)
    model_config(shape, small=small).save_pretrained(base.path)
    determinism.start(config)
    model = model_on_device(shape, config.device, four_bits=config.quantization is not None, small=small)
    run = RunDir.new(folder / "runs", config.name, None)
    run.path.mkdir(parents=True)
    return Unsaved(model, base, config, run, rows, [], 0, layout)


def run_config(case: Case, max_length: int, device: str) -> Any:
    """The experiment of a case."""
    from solotune.config.schema import RunConfig

    quantization: dict[str, Any] | None = {} if case.four_bits else None
    return RunConfig.model_validate(
        {
            "name": "memory",
            "device": device,
            "dataset": {"raw_files": ["none.jsonl"]},
            "model": {"name_or_path": case.shape, "source": "folder"},
            "lora": {
                "r": case.r,
                "lora_dropout": case.dropout,
                "target_modules": case.targets if case.targets == "all-linear" else case.targets.split(),
            },
            "quantization": quantization,
            "training": {
                "max_length": max_length,
                "packing": case.packing,
                "per_device_train_batch_size": case.sequences,
                "gradient_accumulation_steps": 2,
                "max_steps": 2,
                # bitsandbytes has no 8-bit optimiser for processors
                "optim": case.optim if device == "cuda" else "adamw_torch_fused",
                "activation_checkpointing": None if case.packing else True,
                "eval_steps": 0,
            },
        }
    )


def full_rows(sequences: int, max_length: int, vocabulary: int) -> Any:
    """Rows that fill so many sequences to the last token; all but a row's first eight tokens are trained."""
    from solotune.modeling.chat import IGNORE, Encoded

    draw = random.Random(0)
    rows = []
    for number in range(sequences):
        left = max_length
        while left:
            # Some sequences are one row, the others several.
            length = left if number % 2 == 0 or left < 64 else draw.randrange(32, left)
            ids = [draw.randrange(3, vocabulary) for _ in range(length)]
            head = min(8, length - 1)
            rows.append(Encoded(ids, [IGNORE] * head + ids[head:]))
            left -= length
    return rows


def model_config(shape: str, *, small: bool = False) -> Any:
    """The configuration of transformers for a shape."""
    from transformers import AutoConfig

    family, sizes = SHAPES[shape]
    return AutoConfig.for_model(
        family,
        **sizes | (SMALL if small else {}),
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def model_on_device(shape: str, device: str, *, four_bits: bool, small: bool = False) -> Any:
    """A random model of the shape, seeded, in bfloat16; linear layers but the output head in 4 bits, if wanted."""
    import bitsandbytes
    import torch
    from transformers import AutoModelForCausalLM

    from solotune.modeling.base_model import keep_cpu_gradients

    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            model_config(shape, small=small), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    model.requires_grad_(False)
    if not four_bits:
        return model
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear or child is head:
                continue
            layer = bitsandbytes.nn.Linear4bit(
                child.in_features,
                child.out_features,
                child.bias is not None,
                compute_dtype=torch.bfloat16,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            weight = bitsandbytes.nn.Params4bit(
                child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer
            )
            weight._quantize(device)
            layer.weight, layer.bias = weight, child.bias
            setattr(parent, name, layer)
    model.is_loaded_in_4bit = True
    keep_cpu_gradients(model)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return model


def write_model(shape: str, folder: Path, tokenizer: Path, *, small: bool = False) -> None:
    """Saves a random model, seeded, with a given tokenizer."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = time.monotonic()
    model = model_on_device(shape, device, four_bits=False, small=small)
    model.save_pretrained(folder, max_shard_size="4GB")
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    print(f"{shape} with random weights in {folder}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
