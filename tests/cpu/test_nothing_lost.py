"""Stopped anywhere, damaged, without a disk: a training goes on to the same bytes, or says in one line what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.stages import hub

from solotune import cli
from solotune.artifacts.checkpoints import Checkpoints
from solotune.artifacts.files import sha256_file
from solotune.artifacts.run_dir import RunDir
from solotune.config.load import load
from solotune.errors import ArtifactError, Interrupted
from solotune.modeling.likelihood import RowScore
from solotune.modeling.trainer import AdapterTrainer
from solotune.stages import train

A, B = "20260101-000000-small-aaaaaa", "20260101-000001-small-bbbbbb"
MORE = ("training.max_steps=9", "training.logging_steps=4", "training.save_steps=4", "training.eval_steps=2")


def run(*argv: str) -> None:
    assert cli.main(argv) == 0


def given(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def adapter(run_dir: RunDir) -> str:
    return sha256_file(run_dir.adapter / "adapter_model.safetensors")


def logged(run_dir: RunDir) -> list[tuple[int, Any, Any]]:
    lines = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    return [(line["step"], line.get("loss"), line.get("eval_loss")) for line in lines]


@pytest.fixture
def prepared(small_experiment: Path) -> Path:
    run("fetch", "--config", "small.yaml")
    run("prepare", "--config", "small.yaml")
    return small_experiment


# --- Resumed at any step


KINDS = {
    "qlora": (),
    "lora": ("quantization=null",),
    "checkpointing": ("training.activation_checkpointing=true",),
    "not packed": ("training.packing=false", "training.per_device_train_batch_size=3"),
    "float32": ("model.dtype=float32", "quantization=null", "training.optim=adamw_torch"),
    "8 bit": ("training.optim=adamw_8bit",),
    "warm-up": ("training.lr_scheduler_type=constant_with_warmup", "training.warmup_steps=5"),
}


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("qlora", (1, 5, 8)), *(pytest.param(kind, range(1, 9), marks=pytest.mark.slow) for kind in KINDS)],
)
def test_stopped_after_any_step_and_resumed_it_ends_with_the_same_adapter(
    prepared: Path, kind: str, steps: Sequence[int]
) -> None:
    """Nine steps are almost two epochs; evaluations lie between, and dropout draws numbers."""
    config = load(prepared, [*MORE, *KINDS[kind]])
    straight = train.run(config, A)
    for step in steps:
        root = Path("trials") / str(step)
        train.run(config, A, train.Trial(root, until=step))
        resumed = train.resume(A, trial=train.Trial(root, until=99))
        assert adapter(resumed) == adapter(straight), f"stopped after step {step}"
        evaluations = [line for line in logged(resumed) if line[2] is not None]
        assert evaluations == [line for line in logged(straight) if line[2] is not None]
        assert resumed.finished()[1].tokens == straight.finished()[1].tokens


def in_evaluation(monkeypatch: pytest.MonkeyPatch, *signals: signal.Signals) -> None:
    """Sends signals to this process in the middle of each evaluation, the rehearsal's apart."""
    score = AdapterTrainer.score

    def signalled(self: AdapterTrainer, rows: Any, *on_rows: Any) -> Any:
        for number in signals if on_rows else ():
            os.kill(os.getpid(), number)
        return score(self, rows, *on_rows)

    monkeypatch.setattr(AdapterTrainer, "score", signalled)


def test_a_signal_in_the_middle_of_an_evaluation_breaks_it_off_and_the_resume_makes_up_for_it(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`docker stop` gives 30 seconds, and an evaluation may take longer."""
    run("train", "--config", "small.yaml", "--run-id", A)
    with monkeypatch.context() as patched:
        in_evaluation(patched, signal.SIGTERM)
        assert cli.main(["train", "--config", "small.yaml", "--run-id", B]) == 143
    assert "stopped and saved at step 3 of 6; go on with `invoke train --resume" in capsys.readouterr().err
    stopped, whole = RunDir(Path("runs") / B), RunDir(Path("runs") / A)
    assert Checkpoints(stopped.checkpoints).steps() == [2, 3]
    assert not any(eval_loss for _, _, eval_loss in logged(stopped))
    run("train", "--resume", B)
    assert adapter(stopped) == adapter(whole)
    assert logged(stopped) == logged(whole)


def test_a_signal_in_the_last_evaluation_is_made_up_for_too(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run whose lines of the log are further apart than its evaluations."""
    settings = given("training.eval_steps=5", "training.logging_steps=4")
    run("train", "--config", "small.yaml", "--run-id", A, *settings)
    command = ["train", "--config", "small.yaml", "--run-id", B, *settings]
    with monkeypatch.context() as patched:
        in_evaluation(patched, signal.SIGTERM)
        assert cli.main(command) == 143  # of step 5
        assert cli.main(["train", "--resume", B]) == 143  # made up for, and broken off again
    stopped = RunDir(Path("runs") / B)
    with monkeypatch.context() as patched:
        seen = AdapterTrainer.score

        def only_the_last(self: AdapterTrainer, rows: Any, *on_rows: Any) -> Any:
            if on_rows and self.state.global_step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return seen(self, rows, *on_rows)

        patched.setattr(AdapterTrainer, "score", only_the_last)
        assert cli.main(["train", "--resume", B]) == 143
    assert f"stopped and saved at step 6 of 6; go on with `invoke train --resume {B}`" in capsys.readouterr().err
    run("train", "--resume", B)
    whole = RunDir(Path("runs") / A)
    assert adapter(stopped) == adapter(whole)
    assert logged(stopped) == logged(whole)
    assert stopped.finished()[1].tokens == whole.finished()[1].tokens


def test_a_second_signal_stops_at_once_and_the_last_checkpoint_is_whole(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_evaluation(monkeypatch, signal.SIGINT, signal.SIGINT)
    assert cli.main(["train", "--config", "small.yaml", "--run-id", A]) == 130
    assert f"stopped at once; what was saved is whole: `invoke train --resume {A}`" in capsys.readouterr().err
    checkpoints = Checkpoints(RunDir(Path("runs") / A).checkpoints)
    assert checkpoints.newest_whole() == (checkpoints.path(2), [])


# --- Damaged checkpoints


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def forget_optimizer(path: Path) -> None:
    manifest = json.loads(path.read_text())
    del manifest["files"]["state.safetensors"]
    path.write_text(json.dumps(manifest))


def of_another_step(path: Path) -> None:
    path.write_text((path.parent.parent / "step-000004" / "manifest.json").read_text())


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a byte of the adapter": ("adapter_model.safetensors", flip),
    "a byte of the optimiser": ("state.safetensors", flip),
    "a byte of the generators": ("state.json", flip),
    "no optimiser": ("state.safetensors", Path.unlink),
    "a cut adapter": ("adapter_model.safetensors", cut),
    "a cut manifest": ("manifest.json", cut),
    "a manifest without the optimiser": ("manifest.json", forget_optimizer),
    "the manifest of another step": ("manifest.json", of_another_step),
    "no manifest": ("manifest.json", Path.unlink),
    "a file in its place": ("", lambda folder: (shutil.rmtree(folder), folder.write_text("x"))[0]),
}


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(prepared)
    straight = adapter(train.run(config, A))
    train.run(config, A, train.Trial(Path("stopped"), until=5))
    for name, (file, damage) in DAMAGES.items():
        shutil.rmtree("trial", ignore_errors=True)
        shutil.copytree("stopped", "trial")
        stopped = RunDir(Path("trial") / A)
        damage(stopped.checkpoints / "step-000005" / file)
        resumed = train.resume(A, trial=train.Trial(Path("trial"), until=99))
        said = capsys.readouterr()
        assert "checkpoint set aside: step-000005: " in said.err, name
        assert "goes on from step 4" in said.out, name
        assert (stopped.checkpoints / "broken-step-000005").exists(), name
        assert adapter(resumed) == straight, name
        assert resumed.manifest().resumes[0]["from_step"] == 4


class Program:
    """What a pickle can hold: a call that is made when it is read."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("it-ran",))


@pytest.mark.parametrize("poisoned", ["state.safetensors", "state.json", "beside"])
def test_no_pickle_is_read_from_a_checkpoint_whatever_its_manifest_says(prepared: Path, poisoned: str) -> None:
    """A manifest proves that bytes are as written, not who wrote them."""
    train.run(load(prepared), A, train.Trial(Path("trial"), until=4))
    folder = Path("trial") / A / "checkpoints" / "step-000004"
    own = json.loads((folder / "manifest.json").read_text())
    upstreams = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "optimizer.bin"]
    for name in upstreams if poisoned == "beside" else [poisoned]:
        (folder / name).write_bytes(pickle.dumps(Program()))
        own["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(own))
    if poisoned == "beside":
        train.resume(A, trial=train.Trial(Path("trial"), until=99))
    else:
        with pytest.raises(ArtifactError, match=r"step-000004 doesn't hold the state of this run's optimiser"):
            train.resume(A, trial=train.Trial(Path("trial"), until=99))
    assert not Path("it-ran").exists()
    pickle.loads(pickle.dumps(Program()))  # it would have run
    assert Path("it-ran").exists()


def test_a_signal_in_the_last_step_saves_it_and_the_resume_finishes_the_run(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", "--config", "small.yaml", "--run-id", A)
    with monkeypatch.context() as patched:
        in_step(patched, 6, [sys.executable, "-c", f"import os; os.kill({os.getpid()}, 15)"])  # the image has no `kill`
        assert cli.main(["train", "--config", "small.yaml", "--run-id", B]) == 143  # val is still to be evaluated
    run("train", "--resume", B)
    whole, signalled = RunDir(Path("runs") / A), RunDir(Path("runs") / B)
    assert logged(signalled) == logged(whole)
    assert signalled.finished()[1].eval_loss == whole.finished()[1].eval_loss
    assert adapter(signalled) == adapter(whole)


def test_a_loss_on_val_that_is_no_number_is_told_and_training_goes_on(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = AdapterTrainer.score

    def with_a_hole(self: AdapterTrainer, rows: Any, *arguments: Any) -> list[RowScore]:
        scores = seen(self, rows, *arguments)
        return [scores[0], dataclasses.replace(scores[1], nll=float("nan")), *scores[2:]]

    monkeypatch.setattr(AdapterTrainer, "score", with_a_hole)
    run("train", "--config", "small.yaml", "--run-id", A)
    warned = "step 6: the loss on val isn't a number; it comes from 1 row: line 2 of val.jsonl"
    assert warned in capsys.readouterr().err
    run_dir = RunDir(Path("runs") / A)
    assert run_dir.finished()[1].eval_loss is None
    assert "NaN" not in run_dir.metrics.read_text()


def test_a_run_made_like_another_is_cut_as_that_one_was(prepared: Path) -> None:
    """verify and reproduce ask for it: another card would choose another layout, with other last bits."""
    run("train", "--config", "small.yaml", "--run-id", A, "--set", "training.max_steps=1")
    path = Path("runs") / A / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["layout"] |= {"sequences": 1, "accumulation": 4}
    path.write_text(json.dumps(manifest))
    run("train", "--config", "small.yaml", "--run-id", B, "--set", "training.max_steps=1", "--like", A)
    layout = RunDir(Path("runs") / B).manifest().layout
    assert layout is not None
    assert (layout.sequences, layout.accumulation) == (1, 4)


@pytest.mark.parametrize(("of", "words"), [("order_sha256", "packs"), ("config_sha256", "settings")])
def test_a_checkpoint_of_another_run_is_set_aside(
    prepared: Path, capsys: pytest.CaptureFixture[str], of: str, words: str
) -> None:
    train.run(load(prepared), A, train.Trial(Path("trial"), until=4))
    path = Path("trial") / A / "checkpoints" / "step-000004" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["origin"][of] = "0" * 64
    path.write_text(json.dumps(manifest))
    train.resume(A, trial=train.Trial(Path("trial"), until=99))
    said = capsys.readouterr()
    assert f"checkpoint set aside: step-000004: manifest.json is of other {words}" in said.err
    assert "goes on from step 2" in said.out


def test_a_state_that_isnt_of_this_optimiser_is_refused_in_one_line(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(prepared)
    train.run(config, A, train.Trial(Path("trial"), until=4))
    folder = Path("trial") / A / "checkpoints" / "step-000004"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "optimizer": {"param_groups": [], "others": {}}}))
    own = json.loads((folder / "manifest.json").read_text())
    record = {"bytes": (folder / "state.json").stat().st_size, "sha256": sha256_file(folder / "state.json")}
    own["files"]["state.json"] = record
    (folder / "manifest.json").write_text(json.dumps(own))
    with pytest.raises(ArtifactError, match=r"step-000004 doesn't hold the state of this run's optimiser"):
        train.resume(A, trial=train.Trial(Path("trial"), until=99))


def test_a_run_goes_on_only_with_the_packs_that_it_began_with(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(prepared)
    train.run(config, A, train.Trial(Path("trial"), until=2))
    monkeypatch.setattr("solotune.modeling.trainer.pack", lambda lengths, capacity, seed: [[i] for i in range(37)])
    with pytest.raises(ArtifactError, match="can't go on: the way in which this solotune packs rows changed"):
        train.resume(A, trial=train.Trial(Path("trial"), until=99))


def test_a_resume_on_another_machine_says_what_differs(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.run(load(prepared), A, train.Trial(Path("trial"), until=2))
    path = Path("trial") / A / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["environment"]["libraries"]["torch"] = "2.0.0"
    path.write_text(json.dumps(manifest))
    resumed = train.resume(A, trial=train.Trial(Path("trial"), until=99))
    assert "the adapter may be another than without a stop: libraries.torch: 2.0.0 -> 2." in capsys.readouterr().err
    (note,) = resumed.manifest().resumes
    assert note["differed"][0].startswith("libraries.torch: 2.0.0 -> ")


# --- Disks that go away


@pytest.fixture
def mounted_runs(prepared: Path) -> Iterator[Path]:
    """runs/ on a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    runs = Path("runs").absolute()
    runs.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", runs], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"can't mount a tmpfs here: {made.stderr.decode().strip()}")
    yield runs
    subprocess.run(["umount", "--lazy", runs], capture_output=True, check=False)


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]


def in_step(monkeypatch: pytest.MonkeyPatch, wanted: int, command: Sequence[Any]) -> None:
    """Runs a command in the middle of an optimiser step."""
    from solotune.modeling.guard import FiniteGuard

    seen = FiniteGuard.on_pre_optimizer_step

    def and_then(self: FiniteGuard, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == wanted:
            subprocess.run(list(map(str, command)), check=True)
        seen(self, args, state, control, **kwargs)

    monkeypatch.setattr(FiniteGuard, "on_pre_optimizer_step", and_then)


@pytest.mark.parametrize("wanted", [3, 4])
def test_a_disk_that_turns_read_only_is_one_clear_line(
    mounted_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: int
) -> None:
    """As WSL does with a faulty disk: at a line of the log (step 3), at a save (step 4)."""
    with monkeypatch.context() as patched:
        # A second, read-only mount of the same files on top: the kernel turns the first one only while no file is open.
        turn = f"mount --bind '{mounted_runs}' '{mounted_runs}' && mount -o remount,bind,ro '{mounted_runs}'"
        in_step(patched, wanted, ["sh", "-c", turn])
        assert cli.main(["train", "--config", "small.yaml", "--run-id", A]) == 2
    (said,) = errors(capsys)
    assert said.startswith("error: can't write runs/")
    assert ": Read-only file system. " in said
    subprocess.run(["umount", mounted_runs], check=True)
    run("train", "--resume", A)
    run("train", "--config", "small.yaml", "--run-id", B)
    assert adapter(RunDir(mounted_runs / A)) == adapter(RunDir(mounted_runs / B))


def test_a_disk_that_vanishes_is_one_clear_line(
    mounted_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_step(monkeypatch, 3, ["umount", "--lazy", mounted_runs])
    assert cli.main(["train", "--config", "small.yaml", "--run-id", A]) == 2
    (said,) = errors(capsys)
    assert said.startswith("error: can't write runs/")
    assert "No such file or directory. Check that runs/" in said
    assert "training stopped" in said


def test_a_save_without_room_is_not_begun(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = iter([2**40, 2**40, 2**40, 1000])  # around the rehearsal, before the first save, before the second
    monkeypatch.setattr("solotune.artifacts.disk.shutil.disk_usage", lambda _: SimpleNamespace(free=next(free, 1000)))
    assert cli.main(["train", "--config", "small.yaml", "--run-id", A]) == 2
    said = capsys.readouterr().err
    assert f"error: runs/{A} has 0.00 GiB free, and the checkpoint of step 4 take" in said
    assert "the checkpoint of step 2 is whole" in said
    assert Checkpoints(RunDir(Path("runs") / A).checkpoints).steps() == [2]


# --- Secrets, names, processes


def test_no_token_is_written_anywhere(
    prepared: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the fetch that uses it, refused or not, nor by a stage that has it in its environment."""
    canary = f"hf_{os.urandom(12).hex()}"
    monkeypatch.setenv("HF_TOKEN", canary)
    rows = Path("data/raw/rows.jsonl").read_bytes()
    of_hub = f"dataset: {{hub: {{name: {hub.NAME}, revision: {hub.COMMIT}}}, raw_files: ['*.jsonl']}}"
    Path("hub.yaml").write_text(f"extends: small.yaml\n{of_hub}\n")
    said = ""
    with hub.serving(hub.Hub({"rows.jsonl": rows}, refusal="GatedRepo")) as served:
        command = [sys.executable, "-P", "-m", "solotune", "fetch", "--config", "hub.yaml", "--debug"]
        for code, refusal in ((1, "GatedRepo"), (0, "")):
            served.refusal = refusal
            environment = {**os.environ, "HF_ENDPOINT": served.url, "HF_HUB_DISABLE_XET": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == code, done.stderr
            said += done.stdout + done.stderr
        assert f"Bearer {canary}" in served.tokens, "it was used"
    for argv in (
        ["prepare", "--config", "hub.yaml", "--replace"],
        ["train", "--config", "hub.yaml", "--set", "training.max_steps=3"],
        ["evaluate", "--run", "latest"],
        ["export", "--run", "latest", "--merge"],
    ):
        run(*argv)
        said += "".join(capfd.readouterr())
    assert canary not in said
    written = [path for path in Path().rglob("*") if path.is_file()]
    assert len(written) > 25
    assert [path for path in written if canary.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("wanted", ["../elsewhere", "/etc", "..", "20260101-000000-small-aaaaaa/../../x", "a\x1b[2J"])
def test_a_run_id_never_leads_out_of_runs(prepared: Path, capsys: pytest.CaptureFixture[str], wanted: str) -> None:
    Path("runs").mkdir()
    (Path("runs") / A).mkdir()
    for argv in (["evaluate", "--run", wanted], ["export", "--run", wanted], ["train", "--resume", wanted]):
        assert cli.main(argv) == 2
    assert cli.main(["train", "--config", "small.yaml", "--run-id", wanted]) == 2
    said = capsys.readouterr().err
    assert "is no run id" in said
    assert "\x1b" not in said
    assert sorted(p.name for p in Path().iterdir()) == ["data", "models", "runs", "small.yaml"]


@pytest.mark.slow
def test_fresh_processes_with_disturbed_generators_give_the_same_adapter(prepared: Path) -> None:
    code = (
        "import random, sys, numpy, torch\n"
        "for _ in range(int(sys.argv[1])): random.random(); numpy.random.rand(3); torch.rand(5)\n"
        "from solotune.cli import main\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    for disturbed, run_id, hash_seed in (("0", A, "1"), ("17", B, "2")):
        command = [sys.executable, "-c", code, disturbed, "train", "--config", "small.yaml", "--run-id", run_id]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=False)
        assert done.returncode == 0
    first, second = (RunDir(Path("runs") / run_id) for run_id in (A, B))
    assert adapter(first) == adapter(second)
    assert logged(first) == logged(second)


def test_an_operation_without_a_deterministic_form_is_named(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing falls back in silence: torch itself refuses, and people see what to do."""
    import torch

    loss = AdapterTrainer.compute_loss

    def with_such_an_operation(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
        return loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(AdapterTrainer, "compute_loss", with_such_an_operation)
    assert cli.main(["train", "--config", "small.yaml", "--run-id", A]) == 2
    said = capsys.readouterr().err
    assert "does not have a deterministic implementation" in said
    assert "--set determinism=seeded" in said
    run("train", "--config", "small.yaml", "--run-id", B, *given("determinism=seeded"))
    (why,) = RunDir(Path("runs") / B).manifest().not_covered
    assert why.startswith("determinism: seeded")


def test_a_stop_before_the_first_step_says_how_to_go_on(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise Interrupted("stopped", 143)

    with monkeypatch.context() as patched:
        patched.setattr("solotune.stages.train.ready.load_base_model", stopped)
        assert cli.main(["train", "--config", "small.yaml", "--run-id", A]) == 143
    assert f"train --resume {A}`" in capsys.readouterr().err
    run("train", "--resume", A)
    run("train", "--config", "small.yaml", "--run-id", B)
    assert adapter(RunDir(Path("runs") / A)) == adapter(RunDir(Path("runs") / B))
