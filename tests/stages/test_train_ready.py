"""Before the first step: the rehearsal changes nothing, and a lack of memory changes the layout, not the batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from solotune import cli
from solotune.artifacts.files import sha256_file
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Layout, Rehearsal
from solotune.config.load import load
from solotune.errors import MachineError
from solotune.modeling import card, generate, rehearsal
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.likelihood import fullest_passes
from solotune.modeling.trainer import AdapterTrainer
from solotune.stages import train
from solotune.stages.train import ready
from solotune.stages.train.inputs import read_inputs

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


@dataclass
class Tried:
    """What a rehearsal gave to the model."""

    packs: list[int] = field(default_factory=list)
    """Labels of each forward pass of the step."""
    scored: list[list[Encoded]] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    """Their lengths."""


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    found = Tried()
    answer, score, loss = generate.generate, AdapterTrainer.score, AdapterTrainer.compute_loss

    def noted_answer(model: Any, prompts: list[list[int]], *more: Any) -> Any:
        found.prompts += [len(prompt) for prompt in prompts]
        return answer(model, prompts, *more)

    def noted_loss(trainer: Any, model: Any, batch: dict[str, Any], **more: Any) -> Any:
        found.packs.append(int((batch["labels"] != IGNORE).sum()))
        return loss(trainer, model, batch, **more)

    monkeypatch.setattr(rehearsal, "generate", noted_answer)
    monkeypatch.setattr(AdapterTrainer, "score", lambda *a: (found.scored.append(a[1]), score(*a))[1])
    monkeypatch.setattr(AdapterTrainer, "compute_loss", noted_loss)
    monkeypatch.setattr(AdapterTrainer, "train", lambda *a, **k: None)
    monkeypatch.setattr(train, "_finish", lambda *a: None)
    return found


def test_what_is_rehearsed_is_the_longest_there_is(prepared: Path, tried: Tried) -> None:
    config = load(prepared, ["evaluation.max_new_tokens=300", "training.packing=false"])
    inputs = read_inputs(config)
    train.run(config, A)
    by_length = sorted(inputs.train, key=lambda row: -len(row.input_ids))[: config.training.per_device_train_batch_size]
    labels = sum(label != IGNORE for row in by_length for label in row.labels)
    assert tried.packs == [labels, labels]
    longest = max(len(row.input_ids) for row in inputs.val)
    assert tried.prompts == [longest + 300]
    assert tried.scored[0] == fullest_passes(inputs.val, config)[0]
    assert sum(len(row.input_ids) for row in tried.scored[0]) > longest


def test_a_step_that_fits_only_without_a_recording_is_made_without(
    prepared: Path, tried: Tried, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings need a GPU: what stands in here says that giving one up gave memory back, once."""
    gave_back = [True, False]
    step = SimpleNamespace(launch=lambda: gave_back.pop(0), off=lambda: None)
    monkeypatch.setattr(AdapterTrainer, "step", property(lambda _: step, lambda *_: None), raising=False)
    monkeypatch.setattr(rehearsal, "_step", out_of_memory(1, lambda trainer: trainer.create_optimizer()))
    monkeypatch.setattr(AdapterTrainer, "plain", lambda _: nullcontext())
    train.run(load(prepared), A)
    assert gave_back == [False]
    assert "the step fits only without a recording of its launches" in capsys.readouterr().err
    assert RunDir(Path("runs") / A).manifest().layout == Layout(2, 2, 0, fixed_shape=False)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_the_drivers_lack_of_memory_is_one_too(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: RuntimeError
) -> None:
    errors = [error]
    loss = AdapterTrainer.compute_loss
    monkeypatch.setattr(AdapterTrainer, "train", lambda *a, **k: None)
    monkeypatch.setattr(train, "_finish", lambda *a: None)

    def failing_once(*args: Any, **more: Any) -> Any:
        if errors:
            raise errors.pop()
        return loss(*args, **more)

    monkeypatch.setattr(AdapterTrainer, "compute_loss", failing_once)
    train.run(load(prepared), A)
    assert "out of memory in the rehearsal" in capsys.readouterr().err


def test_another_error_of_the_step_is_no_lack_of_memory(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> Any:
        raise RuntimeError("expected scalar type Float but found BFloat16")

    monkeypatch.setattr(AdapterTrainer, "compute_loss", wrong)
    with pytest.raises(RuntimeError, match="scalar type"):
        train.run(load(prepared), A)


def test_memory_that_others_hold_is_told_before_anything_is_loaded(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(prepared)
    monkeypatch.setattr(card, "enforce", lambda _: 22.0 * card.GIB)
    free = [20.0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[0] * card.GIB, 24 * card.GIB))
    monkeypatch.setattr(ready, "_chosen", lambda *_: pytest.fail("far enough"))
    on_gpu = config.model_copy(update={"device": "cuda"})
    with pytest.raises(pytest.fail.Exception):
        ready.make_ready(on_gpu, RunDir(Path("runs") / A), no_layout(), read_inputs(config), "")
    said = capsys.readouterr().err
    assert "20.0 GiB of the GPU are free, and training may take 22.0 GiB: a step may fail" in said
    monkeypatch.setattr(ready, "is_wsl", lambda: True)
    with pytest.raises(pytest.fail.Exception):
        ready.make_ready(on_gpu, RunDir(Path("runs") / A), no_layout(), read_inputs(config), "")
    assert "WSL would put the rest into the PC's memory" in capsys.readouterr().err
    for enough in (23.0, 21.9):
        free[0] = enough
        with pytest.raises(pytest.fail.Exception):
            ready.make_ready(on_gpu, RunDir(Path("runs") / A), no_layout(), read_inputs(config), "")
        assert "other programs" not in capsys.readouterr().err


def no_layout() -> Any:
    return SimpleNamespace(layout=None, environment={})


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
    monkeypatch.setattr(AdapterTrainer, "compute_loss", out_of_memory(99, AdapterTrainer.compute_loss))
    with pytest.raises(MachineError, match=r"the smallest step of 'small' doesn't fit .* Lower training\.max_length"):
        train.run(load(prepared), A)
    fixed = ["card.tokens_per_micro_batch=128", "training.packing=false", "training.max_length=128"]
    with pytest.raises(MachineError, match=r"Leave out card\.tokens_per_micro_batch, for which the micro-batch"):
        train.run(load(prepared, fixed), B)


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
        ("generate", r"answering on the longest rows doesn't fit .* Lower evaluation\.max_new_tokens \(\d+\)"),
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
