"""Memory and time that a merge and its proof take, for a random model with Llama 3.1 8B's shapes, on a CPU:

    python benchmarks/merge_memory.py --folder EMPTY_FOLDER --json found.json

The base model is one file of 16 GB, the hardest layout for a merge that goes shard by shard; with the merged model it
takes 32 GB of the disk, and both are deleted in the end. Merge and proof run in processes of their own. Each tells its
peak of anonymous memory (RssAnon, sampled every 20 ms: what it can't do without) and of all resident memory (ru_maxrss:
with pages of mapped files, which the kernel takes back when it needs them).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from tests.helpers import LLAMA_8B  # noqa: E402
from tests.tiny import make_tokenizer  # noqa: E402

CONFIG = {
    "device": "cpu",
    "dataset": {"raw_files": ["none"]},
    "model": {"name_or_path": "random", "source": "folder"},
    "lora": {"r": 16, "lora_alpha": 32},
    "quantization": {},
}


def main() -> None:
    """Makes the model, merges, proves, prints and writes what it saw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--json")
    parser.add_argument("--step", choices=("merge", "prove"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(watched(arguments.step, arguments.folder)))
        return
    parameters = make(arguments.folder, arguments.layers)
    found: dict[str, Any] = {"parameters": parameters, "adapter_rank": CONFIG["lora"]["r"], "base_files": 1}
    for step in ("merge", "prove"):
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--step", step]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[step] = json.loads(done.stdout.splitlines()[-1])
        print(f"{step}: {found[step]}", flush=True)
    for name in ("base", "adapter", "merged"):
        shutil.rmtree(arguments.folder / name)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def make(folder: Path, layers: int) -> int:
    """Writes base model and adapter, tensor by tensor; returns how many parameters the base has."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from solotune.modeling import shards
    from solotune.modeling.shards import Place

    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    make_tokenizer(base)
    shape = {**LLAMA_8B, "num_hidden_layers": layers, "dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(shape))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    random = torch.Generator().manual_seed(0)
    places = {name: Place("BF16", tuple(p.shape)) for name, p in model.named_parameters()}
    with shards.writing(base / "model.safetensors", places) as add:
        for name, place in places.items():
            add(name, torch.empty(place.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=random))
    _make_adapter(base, adapter, model, random)
    return sum(p.numel() for p in model.parameters())


def _make_adapter(base: Path, adapter: Path, model: Any, random: Any) -> None:
    import torch
    from safetensors.torch import save_file

    from solotune.config.schema import RunConfig
    from solotune.modeling.lora import peft_config

    config = RunConfig.model_validate(CONFIG)
    adapter.mkdir()
    peft_config(config.lora, config.model).save_pretrained(adapter)
    head = model.get_output_embeddings()
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            for matrix, rows, columns in (
                ("lora_A", config.lora.r, module.in_features),
                ("lora_B", module.out_features, config.lora.r),
            ):
                values = torch.empty(rows, columns).normal_(0, 0.005, generator=random)
                tensors[f"base_model.model.{name}.{matrix}.weight"] = values
    save_file(tensors, adapter / "adapter_model.safetensors")
    shutil.copy(base / "chat_template.jinja", adapter)


def watched(step: str, folder: Path) -> dict[str, float]:
    """Runs a step in this process; returns its peaks in bytes, and seconds."""
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            anonymous = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
            peak = max(peak, anonymous)

    threading.Thread(target=watch, daemon=True).start()
    start = time.monotonic()
    {"merge": merge, "prove": prove}[step](folder)
    seconds = time.monotonic() - start
    over.set()
    everything = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_rss_anon_bytes": peak, "ru_maxrss_bytes": everything, "seconds": round(seconds, 1)}


def merge(folder: Path) -> None:
    """As export does it."""
    from solotune.modeling.merge import write_merged

    (folder / "merged").mkdir()
    write_merged(_weights(folder), folder / "adapter", folder / "merged", "bfloat16")


def prove(folder: Path) -> None:
    """As export does it."""
    from solotune.modeling.merge_proof import check

    template = hashlib.sha256((folder / "adapter" / "chat_template.jinja").read_bytes()).hexdigest()
    proof = check(folder / "merged", _weights(folder), folder / "adapter", "bfloat16", template)
    assert proof.faults == [], proof.faults


def _weights(folder: Path) -> Any:
    from solotune.artifacts.model_dir import ModelDir
    from solotune.config.schema import RunConfig
    from solotune.environment import prepare_process
    from solotune.modeling.base_weights import BaseWeights

    prepare_process(device="cpu")
    return BaseWeights(ModelDir(folder / "base"), RunConfig.model_validate(CONFIG), dequantised=True)


if __name__ == "__main__":
    main()
