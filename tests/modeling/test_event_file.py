"""TensorBoard's own reader, on a run that was stopped and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from solotune.artifacts.run_dir import RunDir
from solotune.modeling.callbacks import MetricsLog


def points(run: RunDir, tag: str) -> list[tuple[int, float]]:
    read = EventAccumulator(str(run.path)).Reload()
    return [(event.step, event.value) for event in read.Scalars(tag)]


def log_step(log: MetricsLog, step: int, loss: float) -> None:
    state = SimpleNamespace(global_step=step, epoch=0.5, max_steps=9)
    log.on_log(None, state, None, {"loss": loss, "grad_norm": 1.5, "learning_rate": 0.25})  # type: ignore[arg-type]


def test_event_file_and_log_say_the_same_after_a_stop_and_a_resume(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "20260101-000000-x-aaaaaa")
    run.path.mkdir()
    first = MetricsLog(run.metrics, lambda: (10, 5))
    for step in (1, 2, 3):
        log_step(first, step, 4.5 - step)
    first.on_log(None, SimpleNamespace(global_step=2), None, {"eval_loss": None})  # type: ignore[arg-type]
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "lo')  # a kill
    assert points(run, "train/loss") == [(1, 3.5), (2, 2.5), (3, 1.5)]

    second = MetricsLog(run.metrics, lambda: (10, 5), resumed_at=2)
    assert points(run, "train/loss") == [(1, 3.5), (2, 2.5)]
    log_step(second, 3, 9.5)
    second.on_log(None, SimpleNamespace(global_step=3), None, {"eval_loss": 7.5})  # type: ignore[arg-type]
    assert points(run, "train/loss") == [(1, 3.5), (2, 2.5), (3, 9.5)]
    assert points(run, "eval/loss") == [(3, 7.5)]
    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in logged if "loss" in line] == points(run, "train/loss")


def test_it_needs_no_torch_and_no_tensorboard_before_it_writes() -> None:
    code = "import sys, solotune.modeling.event_file; assert not {'tensorboard', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
