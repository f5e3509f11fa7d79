"""Stages through `invoke` on the host: files, exit codes, signals, the bar, and a stop in mid-training."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.docker.conftest import IMAGE, Checkout, docker
from tests.stages.hub import COMMIT, Hub, serving

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

SHORT = ("--set", "training.max_steps=12", "--set", "training.save_steps=50", "--set", "training.eval_steps=50")


def newest_run(checkout: Checkout) -> Path:
    return max((path for path in (checkout.root / "runs").iterdir() if path.is_dir()), key=lambda path: path.name)


def adapter_sha(run: Path) -> str:
    outcome = json.loads((run / "manifest.json").read_text())["outcome"]
    return str(outcome["adapter"]["adapter_model.safetensors"]["sha256"])


@pytest.fixture(scope="module")
def ready(checkout: Checkout, shared: Path) -> Checkout:
    """Base model and splits of the smoke config are there; even fetch has had no network."""
    offline = shared / "offline.yaml"
    offline.write_text("services: {fetch: {network_mode: none}}\n")
    files = ("--file", "compose.yaml", "--file", str(offline))
    fetch = ("run", "--rm", "-T", "fetch", "solotune", "fetch", "--config", "configs/smoke.yaml")
    done = checkout.user.run("docker", "compose", *files, *fetch, cwd=checkout.root)
    assert done.returncode == 0, done.stderr
    done = checkout.invoke("prepare", "--config", "configs/smoke.yaml")
    assert done.returncode == 0, done.stderr
    return checkout


@pytest.fixture(scope="module")
def straight(ready: Checkout) -> Path:
    """A run of twelve steps that nothing disturbed."""
    done = ready.invoke("train", "--config", "configs/smoke.yaml", *SHORT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return newest_run(ready)


def test_a_gguf_is_made_and_measured_in_the_image(straight: Path, ready: Checkout) -> None:
    """llama.cpp's converter, quantiser, runtime and server are in it, and find the libraries that they load.

    How close the models are is for other tests: after twelve steps the likeliest token often hangs on rounding.
    """
    wide = {"max_loss_difference": 1, "max_kl": 1, "min_greedy_agreement": 0.5, "gguf_tolerance": 2}
    bounds = [word for key, value in wide.items() for word in ("--set", f"export.{key}={value}")]
    few = ("--set", "export.proof_examples=16")
    done = ready.invoke("export", "--run", straight.name, "--merge", "--gguf", "q8_0,q4_k_m", *few, *bounds)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    artefacts = json.loads((straight / "export" / "export.json").read_text())["artefacts"]
    for kind in ("q8_0", "q4_k_m"):
        assert artefacts[f"gguf-{kind}"]["passed"]
        assert (straight / "export" / "gguf" / kind / "Modelfile").stat().st_uid == ready.user.uid


def test_the_manifest_knows_image_and_code(straight: Path, ready: Checkout) -> None:
    machine = json.loads((straight / "manifest.json").read_text())["environment"]
    assert machine["image"]["id"] == docker("image", "inspect", "--format", "{{.Id}}", IMAGE).stdout.strip()
    assert machine["git_commit"] == ready.user.run("git", "rev-parse", "HEAD", cwd=ready.root).stdout.strip()
    assert re.fullmatch("[0-9a-f]{64}", machine["source_sha256"])


def test_compose_stop_in_mid_training_saves_and_resume_ends_with_the_same_adapter(
    straight: Path, ready: Checkout
) -> None:
    training = ready.start(
        "train", "--config", "configs/smoke.yaml", *SHORT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    stopped = wait_until_training(ready, straight)
    stop = ready.user.run("docker", "compose", "stop", cwd=ready.root)
    assert stop.returncode == 0, stop.stderr
    out = training.communicate(timeout=60)[0].decode()
    assert training.returncode == 143, out
    assert "invoke train --resume" in out
    checkpoints = list((stopped / "checkpoints").iterdir())
    assert checkpoints, "the stop saved a checkpoint"
    resumed = ready.invoke("train", "--resume", stopped.name)
    assert resumed.returncode == 0, resumed.stderr
    assert adapter_sha(stopped) == adapter_sha(straight)


def wait_until_training(checkout: Checkout, *others: Path, steps: int = 2) -> Path:
    """Waits for a new run that has done some steps."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for run in sorted(set((checkout.root / "runs").iterdir()) - set(others)):
            metrics = run / "metrics.jsonl"
            if metrics.is_file() and metrics.read_text().count("\n") >= steps:
                return run
        time.sleep(0.3)
    pytest.fail("no training began")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_invoke_reaches_the_stage(ready: Checkout, number: signal.Signals, code: int) -> None:
    before = set((ready.root / "runs").iterdir())
    training = ready.start("train", "--config", "configs/smoke.yaml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    run = wait_until_training(ready, *before)
    training.send_signal(number)
    out = training.communicate(timeout=90)[0].decode()
    assert training.returncode == code, out
    assert list((run / "checkpoints").iterdir()), out


def test_ctrl_c_on_a_terminal_and_the_bar(ready: Checkout) -> None:
    """A real terminal: a bar that moves, and Ctrl-C typed into it saves the run."""
    before = set((ready.root / "runs").iterdir())
    master, slave = pty.openpty()
    training = ready.start(
        "train", "--config", "configs/smoke.yaml", stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, env={"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(slave)
    run = wait_until_training(ready, *before, steps=4)
    os.write(master, b"\x03")
    shown = b""
    end = time.monotonic() + 90
    while training.poll() is None and time.monotonic() < end:
        if select.select([master], [], [], 0.5)[0]:
            try:
                shown += os.read(master, 65_536)
            except OSError:
                break
    text = shown.decode(errors="replace")
    assert training.wait(timeout=30) == 130, text[-2000:]
    assert "\x1b[" in text
    assert "━" in text, "a bar was drawn"
    assert "invoke train --resume" in text
    assert list((run / "checkpoints").iterdir())


def test_two_stages_do_not_share_a_service(ready: Checkout) -> None:
    before = set((ready.root / "runs").iterdir())
    training = ready.start("train", "--config", "configs/smoke.yaml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until_training(ready, *before)
    second = ready.invoke("train", "--config", "configs/smoke.yaml")
    assert second.returncode == 2
    assert "already running in the cpu service" in second.stderr
    assert ready.invoke("runs").returncode == 0, "what takes seconds may run beside it"
    training.terminate()
    training.communicate(timeout=90)
    assert training.returncode == 143


def test_without_a_gpu_the_message_names_the_fix(ready: Checkout) -> None:
    if docker("info", "--format", "{{json .Runtimes}}").stdout.find("nvidia") >= 0:
        pytest.skip("this engine has GPUs")
    done = ready.invoke("train", "--config", "configs/sft_qlora.yaml")
    assert done.returncode not in (0, 130)
    assert "could not select device driver" in done.stderr
    assert "nvidia-container-toolkit" in done.stderr
    assert "Docker Desktop" in done.stderr


def test_the_exit_code_of_a_stage_is_invokes(ready: Checkout) -> None:
    done = ready.invoke("train", "--config", "configs/smoke.yaml", "--set", "training.max_stepz=1")
    assert done.returncode == 2
    assert "max_steps" in done.stderr


def test_an_image_of_another_lock_is_refused(ready: Checkout) -> None:
    lock = ready.root / "uv.lock"
    text = lock.read_text()
    lock.write_text(text + "# newer\n")
    try:
        done = ready.invoke("runs")
    finally:
        lock.write_text(text)
    assert done.returncode == 2
    assert "invoke build" in done.stderr


def test_everything_written_belongs_to_the_user(straight: Path, ready: Checkout) -> None:
    strangers = [
        path
        for folder in ("runs", "data", "models")
        for path in (ready.root / folder).rglob("*")
        if path.stat().st_uid != ready.user.uid
    ]
    assert strangers == []


def test_raw_rows_are_as_they_were(straight: Path, ready: Checkout) -> None:
    done = ready.user.run("git", "status", "--porcelain", "data/raw", cwd=ready.root)
    assert done.stdout == ""


def test_tensorboard_answers_on_the_loopback_alone(straight: Path, ready: Checkout) -> None:
    import urllib.request

    server = ready.start("tensorboard", "--port", "6116", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen("http://127.0.0.1:6116/data/runs", timeout=5) as answer:
                    known = json.load(answer)
                if straight.name in known:
                    break
            except OSError:
                pass
            assert time.monotonic() < end, "no answer in a minute"
            time.sleep(0.5)
        published = docker("port", f"{ready.project}-tensorboard-1").stdout
        assert published.split() == ["6116/tcp", "->", "127.0.0.1:6116"]
    finally:
        server.terminate()
        server.communicate(timeout=60)


def test_doctor_checks_host_and_container(ready: Checkout) -> None:
    done = ready.invoke("doctor", "--cpu")
    failed = {line.split()[1] for line in done.stdout.splitlines() if line.split()[:1] == ["FAIL"]}
    assert failed <= {"memory", "disk"}, done.stdout  # of this machine
    assert done.returncode == (1 if failed else 0)
    for line in ("docker-engine", "line-endings", "lock", "data/raw", "network"):
        assert line in done.stdout, done.stdout


def test_rows_of_a_task_are_fetched_through_the_network_and_asked_without_one(straight: Path, ready: Checkout) -> None:
    """hellaswag derives its rows with `map`, which writes beside them; the checkout is read-only there."""
    row = {"activity_label": "Sums", "ctx_a": "One and one", "ctx_b": "is", "endings": ["two.", "ten."], "label": "0"}
    rows = "".join(json.dumps({**row, "ind": i}) + "\n" for i in range(8)).encode()
    gateway = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").stdout.strip()
    files = {"train.jsonl": rows, "validation.jsonl": rows}
    with serving(Hub(files, name="Rowan/hellaswag"), gateway) as hub:
        fetch = ("run", "--rm", "-T", "--env", f"HF_ENDPOINT={hub.url}", "fetch", "solotune", "fetch")
        tasks = ("--config", "configs/smoke.yaml", "--set", "evaluation.suite={tasks: [hellaswag]}")
        done = ready.user.run("docker", "compose", *fetch, *tasks, cwd=ready.root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hellaswag: 1 data set brought" in done.stdout
    few = ("--set", "evaluation.suite.limit=4", "--set", "evaluation.max_examples=4", "--set", "evaluation.metrics=[]")
    done = ready.invoke("evaluate", "--run", straight.name, "--suite", "hellaswag", "--no-exports", *few)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    suite = json.loads((straight / "eval_report.json").read_text())["suite"]
    assert suite["data_sets"] == {"Rowan/hellaswag": [COMMIT]}
    assert {(task["metric"], task["n"]) for task in suite["tasks"]} == {("acc,none", 4), ("acc_norm,none", 4)}


@pytest.mark.slow
def test_the_whole_pipeline_offline(ready: Checkout) -> None:
    start = time.monotonic()
    done = ready.invoke("smoke")
    print(done.stdout[-1800:])
    assert done.returncode == 0, done.stderr[-3000:]
    outside = float(os.environ.get("SMOKE_SECONDS", "0"))  # `.ci/run` timed it
    assert time.monotonic() - start < max(1500, 1.5 * outside)
    run = newest_run(ready)
    report = json.loads((run / "eval_report.json").read_text())
    assert report["adapter"]["metrics"]["exact_match"]["value"] >= 0.8
    assert (run / "export" / "merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_quick_tests_pass_inside(ready: Checkout) -> None:
    done = ready.invoke("test")
    print(done.stdout[-600:])
    assert done.returncode == 0, done.stdout[-5000:]
