"""What a QLoRA adapter is worth after each way of merging it, on the run's held-out rows:

    python benchmarks/merge_bases.py --run RUN --gguf f16 q8_0 q6_k q5_k_m q4_k_m --json found.json

Everything is held against the adapter as it was trained, by the code of `export`: the base model, the adapter once
more (what two passes over it differ by), both merges that `export` offers, PEFT's `merge_and_unload` on the 4-bit
model, and GGUF files of the merge into the dequantised weights. Nothing is written into the run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from solotune.environment import prepare_process


def main() -> None:
    """Prints a table, and writes what it saw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="latest")
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--gguf", nargs="*", default=["f16", "q8_0"])
    parser.add_argument("--json")
    arguments = parser.parse_args()
    prepare_process(device="cpu")
    with TemporaryDirectory(dir=".") as folder:
        found = measure(arguments.run, arguments.rows, arguments.gguf, Path(folder))
    for name, figures in found["measured"].items():
        print(f"{name:46} {figures['loss']:9.4f}", *(f"{figures[key]:10.3g}" for key in list(figures)[1:]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


def measure(wanted: str, rows: int, types: Sequence[str], folder: Path) -> dict[str, Any]:
    """The table, and what it was made with."""
    from solotune.artifacts.model_dir import ModelDir
    from solotune.artifacts.run_dir import RunDir
    from solotune.config.load import load
    from solotune.environment import library_versions
    from solotune.stages.export.model_card import Facts
    from solotune.stages.export.yardstick import Yardstick

    run_dir = RunDir.find(Path("runs"), wanted)
    manifest, outcome = run_dir.finished()
    config = load(run_dir.config_of(manifest))
    base = ModelDir.of(config.model)
    facts = Facts(run_dir, manifest, config, base, base.open(hashes=True))
    start = time.monotonic()
    yardstick = Yardstick.measure(facts, rows, folder)
    measured = {}
    for name, figures in _ways(facts, yardstick, types, folder):
        print(f"{name}: {figures}", flush=True)
        measured[name] = figures
    return {
        "run": {"steps": outcome.steps, "base": facts.fetched.name_or_path, "lora": config.lora.model_dump()},
        "quantization": config.quantization.model_dump() if config.quantization else None,
        "merge_dtype": config.export.merge_dtype,
        "rows": yardstick.examples,
        "libraries": library_versions(),
        "measured": measured,
        "seconds": round(time.monotonic() - start),
    }


def _ways(facts: Any, yardstick: Any, types: Sequence[str], folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    from solotune.modeling.base_model import load_base_model
    from solotune.modeling.base_weights import BaseWeights
    from solotune.modeling.lora import load_adapter
    from solotune.modeling.merge import write_merged
    from solotune.modeling.merge_proof import check
    from solotune.modeling.subject import TorchSubject
    from solotune.stages.export.gguf import write_gguf
    from solotune.stages.export.tolerance import of_merged

    config, adapter = facts.config, facts.run_dir.adapter
    bounds = of_merged(config.export)

    def held(subject: Any, name: str) -> dict[str, float]:
        return _figures(yardstick.hold(name, subject, bounds))

    model = load_adapter(load_base_model(facts.base, config), adapter)
    with model.disable_adapter():
        yield "base (4-bit, no adapter)", held(TorchSubject(model, yardstick.encoder, config), "base")
    yield "adapter (once more)", held(TorchSubject(model, yardstick.encoder, config), "adapter")
    unloaded = model.merge_and_unload()
    yield "PEFT merge_and_unload on the 4-bit model", held(TorchSubject(unloaded, yardstick.encoder, config), "PEFT")
    del model, unloaded
    for kind in ("original", "dequantised"):
        merged = folder / kind
        merged.mkdir()
        weights = BaseWeights(facts.base, config, dequantised=kind == "dequantised")
        write_merged(weights, adapter, merged, config.export.merge_dtype)
        proof = check(merged, weights, adapter, config.export.merge_dtype, facts.manifest.template_sha256)
        assert not proof.faults, proof.faults
        figures = _figures(yardstick.measure_merged(kind, merged, bounds))
        yield f"merged, {kind} weights, {config.export.merge_dtype}", figures | {"update_kept": proof.update_kept}
    for kind in types:
        file = folder / f"{kind}.gguf"
        made_by = write_gguf(folder / "dequantised", file, kind, folder)
        size = file.stat().st_size
        name = f"GGUF {kind} of the dequantised merge ({made_by})"
        yield name, _figures(yardstick.measure_gguf(kind, file, bounds).artefact) | {"bytes": size}


def _figures(artefact: Any) -> dict[str, float]:
    found = artefact.divergence
    return {
        "loss": artefact.measured["loss"],
        "perplexity": artefact.measured["perplexity"],
        "kl_mean": found.kl_mean,
        "kl_max": found.kl_max,
        "max_logit_difference": found.max_logit_difference,
        "mean_logit_difference": found.mean_logit_difference,
        "greedy_agreement": found.greedy_agreement,
        "positions": found.positions,
    }


if __name__ == "__main__":
    main()
