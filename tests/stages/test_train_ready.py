"""Before the first step: the rehearsal changes nothing, and a lack of memory changes the layout, not the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from solotune import cli
from solotune.artifacts.files import sha256_file
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Layout, Rehearsal
from solotune.config.load import load
from solotune.errors import MachineError
from solotune.modeling import generate, rehearsal
from solotune.modeling.trainer import AdapterTrainer
from solotune.stages import train
from solotune.stages.train import ready

A, B = "20260101-000000-small-aaaaaa", "20260101-000001-small-bbbbbb"


@pytest.fixture
def prepared(small_experiment: Path) -> Path:
    assert cli.main(["fetch", "--config", "small.yaml"]) == 0
    assert cli.main(["prepare", "--config", "small.yaml"]) == 0
    return small_experiment


def adapter(run: RunDir) -> str:
    return sha256_file(run.adapter / "adapter_model.safetensors")


def out_of_memory(times: int, then: Callable[..., Any]) -> Callable[..., Any]:
    """What fails so often for want of memory, and then does what it should."""
    left = [times]

    def call(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return then(*args, **kwargs)

    return call


def test_a_rehearsal_leaves_adapter_generators_and_log_as_they_were(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(prepared)
    rehearsed = train.run(config, A)
    monkeypatch.setattr(ready, "rehearse", lambda *_: Rehearsal(None, None, None, 0, 0.0, 0.0))
    straight = train.run(config, B)
    assert adapter(rehearsed) == adapter(straight)
    tokens = [run.finished()[1].tokens for run in (rehearsed, straight)]
    assert tokens[0] == tokens[1]
    found = rehearsed.manifest().rehearsal
    assert found is not None
    assert found.checkpoint_bytes > 50_000
    assert [p.name for p in rehearsed.path.iterdir() if "rehearsal" in p.name] == []


def test_a_rehearsal_evaluates_answers_and_saves(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    answer, save, score = generate.generate, rehearsal.save_state, AdapterTrainer.score
    monkeypatch.setattr(rehearsal, "generate", lambda *a, **k: (done.append("answer"), answer(*a, **k))[1])
    monkeypatch.setattr(rehearsal, "save_state", lambda *a: (done.append("save"), save(*a))[1])
    monkeypatch.setattr(AdapterTrainer, "score", lambda *a: (done.append("evaluate"), score(*a))[1])
    monkeypatch.setattr(AdapterTrainer, "train", lambda *a, **k: done.append("train"))
    monkeypatch.setattr(train, "_finish", lambda *a: None)
    train.run(load(prepared), A)
    assert done[:4] == ["evaluate", "answer", "save", "train"]


def test_out_of_memory_in_the_rehearsal_lowers_the_micro_batch_and_keeps_the_effective_one(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(prepared)
    straight = train.run(config, A)
    assert straight.manifest().layout == Layout(2, 2, 0, fixed_shape=False)
    with monkeypatch.context() as patched:
        patched.setattr(AdapterTrainer, "compute_loss", out_of_memory(1, AdapterTrainer.compute_loss))
        lowered = train.run(config, B)
    said = capsys.readouterr().err
    assert "out of memory in the rehearsal with 2 forward passes of 256 tokens; now 4 forward passes of 128" in said
    assert "The effective batch is the same" in said
    assert lowered.manifest().layout == Layout(1, 4, 0, fixed_shape=False)
    assert straight.manifest().not_covered == []
    (why,) = lowered.manifest().not_covered
    assert why.startswith("the micro-batch was lowered in the rehearsal for want of memory")
    ours, theirs = straight.finished()[1], lowered.finished()[1]
    assert (ours.steps, ours.tokens, ours.trained_tokens) == (theirs.steps, theirs.tokens, theirs.trained_tokens)
    assert ours.train_loss == pytest.approx(theirs.train_loss, abs=2e-2)


def test_when_nothing_smaller_is_left_it_says_what_to_lower(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdapterTrainer, "compute_loss", out_of_memory(9, AdapterTrainer.compute_loss))
    with pytest.raises(MachineError, match=r"the smallest step of 'small' doesn't fit .* Lower training\.max_length"):
        train.run(load(prepared), A)


def test_a_run_that_goes_on_keeps_its_layout_and_doesnt_change_it_for_want_of_memory(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(prepared)
    straight = adapter(train.run(config, A))
    trial = train.Trial(Path("trial"), until=2)
    stopped = train.run(config, A, trial)
    with monkeypatch.context() as patched:
        patched.setattr(AdapterTrainer, "compute_loss", out_of_memory(1, AdapterTrainer.compute_loss))
        with pytest.raises(MachineError, match="the step that this run began with doesn't fit"):
            train.resume(A, trial=train.Trial(Path("trial"), until=99))
    layout = stopped.manifest().layout
    monkeypatch.setattr(ready, "choose", lambda *a, **k: pytest.fail("a layout was chosen anew"))
    resumed = train.resume(A, trial=train.Trial(Path("trial"), until=99))
    assert resumed.manifest().layout == layout
    assert adapter(resumed) == straight


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("generate", r"answering on the longest rows doesn't fit .* Lower evaluation\.batch_size \(16\)"),
        ("score", r"an evaluation on the longest rows doesn't fit .* training\.max_length"),
    ],
)
def test_an_evaluation_that_would_run_out_of_memory_does_so_before_the_first_step(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    owner = rehearsal if what == "generate" else AdapterTrainer
    monkeypatch.setattr(owner, what, out_of_memory(1, lambda *_: None))
    with pytest.raises(MachineError, match=said):
        train.run(load(prepared), A)
    run = RunDir(Path("runs") / A)
    assert not run.metrics.exists()
    assert not list(run.checkpoints.glob("*"))
