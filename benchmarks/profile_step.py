"""Where the time of an optimiser step goes: kernels by name, and when the GPU waited, for what.

    python -P benchmarks/profile_step.py --tokenizer FOLDER [--determinism strict] [--lengths dense] [--out FOLDER]

The product's trainer on a random 8B model in NF4, two packs of 2,048 tokens in a pass and four passes in a step, as
`train_speed.py` has it. A few steps are timed without a profiler, then two under torch's. A gap is a stretch without
any kernel or copy; it belongs to the innermost part of a step in which the processor was when the gap ended.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).resolve().parent)]
SHAPE = "llama-3.1-8b"
TIMED, PROFILED, WARM = 12, 2, 3


def main() -> None:
    """Prints what it saw and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--determinism", choices=("strict", "seeded"), default="strict")
    parser.add_argument("--lengths", choices=("dense", "real"), default="dense")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    given = parser.parse_args()
    from solotune import environment

    environment.prepare_process(device="cuda")
    with tempfile.TemporaryDirectory() as folder:
        found = profile(given, Path(folder))
    found = {
        "script": "benchmarks/profile_step.py",
        "date": time.strftime("%Y-%m-%d"),
        "device": environment.gpus(),
        "libraries": environment.library_versions(),
        "source_sha256": environment.source_sha256(ROOT / "src" / "solotune"),
        "determinism": given.determinism,
        "lengths": given.lengths,
        **found,
    }
    file = given.out / f"profile_{given.lengths}_{given.determinism}.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    told = ("step_ms_median", "step_ms_profiled", "busy_ms", "idle_ms", "idle_ms_by_part", "kernels_ms")
    print(json.dumps({key: found[key] for key in told}, indent=1), flush=True)


def profile(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Milliseconds of a step, and of what is in it."""
    import torch
    import train_memory
    from torch.profiler import ProfilerActivity
    from transformers import TrainerCallback

    from solotune.artifacts.run_manifest import Layout
    from solotune.modeling import card
    from solotune.modeling.callbacks import MetricsLog

    config = train_memory.run_config(train_memory.Case(SHAPE, True, 16, 2048, 2), 2048, "cuda")
    steps = WARM + TIMED + PROFILED + 1
    training = config.training.model_copy(update={"max_steps": steps, "gradient_accumulation_steps": 8})
    of_card = config.card.model_copy(update={"vram_gib": 23.0})
    config = config.model_copy(update={"training": training, "determinism": given.determinism, "card": of_card})
    card.enforce(config)
    layout = Layout(2, 4, 0, fixed_shape=True)
    trainer = train_memory.trainer_of(config, layout, random_rows(given.lengths), folder, given.tokenizer)
    log = MetricsLog(trainer.run.metrics, trainer.take_counts)
    trainer.add_callback(log)
    for where, name in (
        (trainer, "get_batch_samples"),
        (trainer, "training_step"),
        (trainer, "_clip_grad_norm"),
        (trainer, "_maybe_log_save_evaluate"),
        (trainer.guard, "on_pre_optimizer_step"),
        (trainer._ahead, "on_pre_optimizer_step"),
    ):
        setattr(where, name, ranged(getattr(where, name), f"{type(where).__name__}.{name}"))

    walls: list[float] = []
    profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    class Clock(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            walls.append(time.perf_counter())  # no wait of its own: the log waits in each step
            if state.global_step == WARM + TIMED:
                torch.cuda.synchronize()
                profiler.start()
            elif state.global_step == WARM + TIMED + PROFILED:
                torch.cuda.synchronize()
                profiler.stop()

    trainer.add_callback(Clock())
    trainer.train()
    log.close()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    timed = [1000 * (b - a) for a, b in zip(walls[WARM - 1 :], walls[WARM : WARM + TIMED], strict=False)]
    profiled = 1000 * (walls[WARM + TIMED + PROFILED - 1] - walls[WARM + TIMED - 1]) / PROFILED
    return {
        "step_ms": [round(wall, 1) for wall in timed],
        "step_ms_median": round(statistics.median(timed), 1),
        "step_ms_profiled": round(profiled, 1),
        **read(json.loads(trace.read_text())["traceEvents"]),
    }


def ranged(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function with its name in the trace."""
    import torch

    @functools.wraps(function)
    def named(*args: Any, **kwargs: Any) -> Any:
        with torch.profiler.record_function(f"part:{name}"):
            return function(*args, **kwargs)

    return named


def random_rows(lengths: str) -> list[Any]:
    """Of 2,048 tokens each, or of log-normal lengths, median 200, as in train_speed.py."""
    from solotune.modeling.chat import IGNORE, Encoded

    draw = random.Random(0)
    rows = []
    for _ in range(192 if lengths == "dense" else 1500):
        length = 2048 if lengths == "dense" else max(32, min(2048, int(draw.lognormvariate(5.3, 0.8))))
        ids = [draw.randrange(3, 40_000) for _ in range(length)]
        rows.append(Encoded(ids, [IGNORE] * 8 + ids[8:]))
    return rows


def read(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums of a trace, in milliseconds of one step."""
    events = [event for event in events if event.get("ph") == "X"]
    work = sorted(
        (e["ts"], e["ts"] + e["dur"], e["name"])
        for e in events
        if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    )
    parts = [
        (e["ts"], e["ts"] + e["dur"], e["name"].removeprefix("part:"))
        for e in events
        if e["name"].startswith("part:") and e.get("cat") == "user_annotation"
    ]
    kernels: collections.Counter[str] = collections.Counter()
    gaps: list[tuple[float, str, str, str]] = []
    by_part: collections.Counter[str] = collections.Counter()
    busy, end, last = 0.0, work[0][0], ""
    for start, stop, name in work:
        kernels[name.split("<")[0][:80]] += stop - start
        if start > end:
            inside = [part for part in parts if part[0] <= start <= part[1]]
            part = max(inside)[2] if inside else "between"
            by_part[part if start - end > 20 else "less than 20 µs each"] += start - end
            gaps.append((round(start - end), part, last[:60], name[:60]))
        busy += max(0.0, stop - max(start, end))
        if stop > end:
            end, last = stop, name
    in_ms = {name: round(spent / 1000 / PROFILED, 2) for name, spent in kernels.most_common(30)}
    return {
        "kernels": round(len(work) / PROFILED),
        "busy_ms": round(busy / 1000 / PROFILED, 1),
        "idle_ms": round(sum(by_part.values()) / 1000 / PROFILED, 1),
        "idle_ms_by_part": {name: round(spent / 1000 / PROFILED, 2) for name, spent in by_part.most_common()},
        "longest_gaps_us": sorted(gaps, reverse=True)[:24],
        "kernels_ms": in_ms,
    }


if __name__ == "__main__":
    main()
