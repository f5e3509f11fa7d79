"""Two trainings side by side: the first difference is found and named."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Difference, StepFingerprint
from solotune.chains.compare import compare_fingerprints, compare_metrics


def step(number: int, **changed: object) -> StepFingerprint:
    base = StepFingerprint(number, "order", 2.0, 0.5, {"q.lora_A": "a", "q.lora_B": "b"}, {"0.exp_avg": "c"})
    return msgspec.structs.replace(base, **changed)


def run_of(folder: Path, *steps: StepFingerprint) -> RunDir:
    folder.mkdir()
    run = RunDir(folder)
    run.fingerprints.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in steps))
    return run


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"order_sha256": "other", "loss": 9.0}, "order"),
        ({"loss": 2.25, "adapter": {"q.lora_A": "x", "q.lora_B": "b"}}, "loss"),
        ({"grad_norm": 0.25}, "grad_norm"),
        ({"adapter": {"q.lora_A": "a", "q.lora_B": "x"}, "optimizer": {"0.exp_avg": "x"}}, "adapter: q.lora_B"),
        ({"adapter": {"q.lora_A": "a"}}, "adapter: q.lora_B"),
        ({"optimizer": {"0.exp_avg": "x"}}, "optimizer: 0.exp_avg"),
        ({"optimizer": {"0.exp_avg": "c", "0.more": "d"}}, "optimizer: 0.more"),
    ],
)
def test_the_first_differing_step_and_tensor_are_named(tmp_path: Path, changed: dict[str, object], what: str) -> None:
    straight = run_of(tmp_path / "a", step(1), step(2), step(3))
    other = run_of(tmp_path / "b", step(1), step(2, **changed), step(3, loss=5.0))
    verdict = compare_fingerprints(straight, other)
    assert not verdict.equal
    assert verdict.first_difference == Difference(2, what)
    assert verdict.max_loss_difference == 3.0 if what != "order" else 7.0
    assert compare_fingerprints(straight, run_of(tmp_path / "c", step(1), step(2), step(3))).equal


def test_a_step_that_was_made_again_after_a_resume_counts_as_it_was_last(tmp_path: Path) -> None:
    straight = run_of(tmp_path / "a", step(1), step(2))
    resumed = run_of(tmp_path / "b", step(1), step(2, loss=7.0), step(2))
    assert compare_fingerprints(straight, resumed).equal


def test_a_training_that_didnt_come_so_far_is_no_equal_one(tmp_path: Path) -> None:
    verdict = compare_fingerprints(run_of(tmp_path / "a", step(1), step(2)), run_of(tmp_path / "b", step(1)))
    assert verdict.first_difference == Difference(2, "one of the two didn't come so far")
    nothing = compare_fingerprints(run_of(tmp_path / "c"), run_of(tmp_path / "d"))
    assert not nothing.equal


def log_of(folder: Path, *lines: dict[str, object]) -> RunDir:
    folder.mkdir()
    run = RunDir(folder)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_logs_are_compared_in_what_two_runs_can_share(tmp_path: Path) -> None:
    first = log_of(
        tmp_path / "a",
        {"step": 1, "loss": 2.0, "grad_norm": 1.0, "seconds": 3.0},
        {"step": 2, "loss": 1.5, "grad_norm": 1.0, "seconds": 3.0},
        {"step": 2, "eval_loss": 1.75},
        {"step": 3, "loss": 1.0, "grad_norm": 1.0},
    )
    same = log_of(tmp_path / "b", {"step": 1, "loss": 2.0, "grad_norm": 1.0, "seconds": 9.0}, {"step": 2, "loss": 1.5})
    verdict = compare_metrics(first, same)
    assert verdict is not None
    assert verdict.equal
    assert verdict.compared == "the log of 2 steps"
    other = log_of(
        tmp_path / "c",
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5},
        {"step": 2, "eval_loss": 1.5},
        {"step": 3, "loss": 1.25},
    )
    verdict = compare_metrics(first, other)
    assert verdict is not None
    assert verdict.first_difference == Difference(2, "eval_loss")
    assert verdict.max_loss_difference == 0.25
    assert compare_metrics(first, log_of(tmp_path / "d", {"step": 4, "loss": 1.0})) is None
    assert compare_metrics(first, other, until=0) is None


def test_a_line_that_averages_over_other_steps_is_no_difference(tmp_path: Path) -> None:
    """A run that logs every fourth step and was stopped at the second logs there, too."""
    straight = log_of(tmp_path / "a", {"step": 4, "loss": 2.0}, {"step": 8, "loss": 1.0})
    stopped = log_of(tmp_path / "b", {"step": 2, "loss": 2.5}, {"step": 4, "loss": 1.5}, {"step": 8, "loss": 1.0})
    verdict = compare_metrics(straight, stopped)
    assert verdict is not None
    assert verdict.equal
