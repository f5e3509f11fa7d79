"""tasks.py: what each task starts, and that it starts nothing else."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tasks
from invoke.context import MockContext
from invoke.exceptions import Exit

ROOT = Path(tasks.__file__).parent


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that the process would have become."""
    found: list[list[str]] = []
    monkeypatch.setenv("SOLOTUNE_RUNTIME", "local")
    monkeypatch.setattr(tasks.os, "execv", lambda program, argv: found.append(list(argv)))
    monkeypatch.chdir(ROOT)
    return found


STAGE = [sys.executable, "-P", "-m", "solotune"]


def test_stages_become_the_command_of_the_same_name(started: list[list[str]]) -> None:
    c = MockContext()
    tasks.fetch(c, "a.yaml", [])
    tasks.prepare(c, "a.yaml", ["seed=1", "device=cpu"], replace=True)
    tasks.plan(c, "a.yaml", [], vram="24")
    tasks.train(c, [], resume="latest")
    tasks.evaluate(c, "latest", split="val", suite=True, exports=False, set=["evaluation.max_examples=5"])
    tasks.export(c, "latest", [], merge=True)
    tasks.export(c, "latest", ["export.max_kl=1"], merge_base="original", gguf=True)
    tasks.export(c, "latest", [], gguf="q8_0,f16")
    tasks.chat(c, "latest", temperature="0.7", max_new_tokens="50")
    tasks.serve(c, "latest", port=8001)
    tasks.smoke(c)
    assert started == [
        [*STAGE, "fetch", "--config", "a.yaml"],
        [*STAGE, "prepare", "--config", "a.yaml", "--set", "seed=1", "--set", "device=cpu", "--replace"],
        [*STAGE, "plan", "--config", "a.yaml", "--vram", "24"],
        [*STAGE, "train", "--resume", "latest"],
        [
            *(*STAGE, "evaluate", "--run", "latest", "--split", "val"),
            *("--suite", "--no-exports", "--set", "evaluation.max_examples=5"),
        ],
        [*STAGE, "export", "--run", "latest", "--merge"],
        [*STAGE, "export", "--run", "latest", "--merge-base", "original", "--gguf", "--set", "export.max_kl=1"],
        [*STAGE, "export", "--run", "latest", "--gguf", "q8_0,f16"],
        [*STAGE, "chat", "--run", "latest", "--temperature", "0.7", "--max-new-tokens", "50"],
        [*STAGE, "serve", "--run", "latest", "--port", "8001"],
        [*STAGE, "pipeline", "--config", "configs/smoke.yaml"],
    ]


@pytest.mark.parametrize("task", ["evaluate", "export", "verify", "reproduce", "chat", "serve"])
def test_without_a_run_a_task_says_how_one_is_named(task: str) -> None:
    answer = invoke(task)
    assert answer.returncode == 2
    assert answer.stderr == "which run? Add `--run latest`, or an id that `invoke runs` lists\n"


@pytest.mark.parametrize("task", ["fetch", "prepare", "plan", "pipeline"])
def test_without_a_config_a_task_says_how_one_is_named(task: str) -> None:
    answer = invoke(task)
    assert answer.returncode == 2
    assert answer.stderr.startswith("which config? Add `--config configs/smoke.yaml`, ")


@pytest.mark.parametrize("task", ["evaluate", "plan", "serve"])
def test_help_behind_a_task_shows_its_options(task: str) -> None:
    answer = invoke(task, "--help")
    assert answer.returncode == 0
    assert f"{task} [--options]" in answer.stdout
    assert "run id, a unique prefix" in answer.stdout or "a YAML file of configs/" in answer.stdout


@pytest.mark.parametrize("task", ["prepare", "runs"])
def test_h_behind_a_task_is_help_whatever_its_flags_are_called(task: str) -> None:
    answer = invoke(task, "-h")
    assert answer.returncode == 0
    assert "Docstring:" in answer.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("prepare", "--confg", "a.yaml"),
            "prepare has no --confg; did you mean --config? `invoke prepare --help` lists what it has",
        ),
        (("runs", "--foo"), "runs has no --foo. `invoke runs --help` lists what it has"),
        (("train", "-c", "a.yaml"), "train has no -c. `invoke train --help` lists what it has"),
        (("prepare", "a.yaml"), "prepare can't tell what a.yaml is; did you mean `--config a.yaml`?"),
        (("evaluate", "latest"), "evaluate can't tell what latest is; did you mean `--run latest`?"),
        (("evaluate", "--suite", "a", "b"), "evaluate can't tell what b is; did you mean `--run b`?"),
        (("train", ""), "train can't tell what an empty word is"),
        (("train", "--resume"), "train: --resume needs a value; `invoke train --help` says which"),
        (("fetch", "--config", "train", "plan", "--config=a", "--vran=24"), "plan has no --vran; did you mean --vram?"),
    ],
)
def test_a_slip_behind_a_task_is_told_in_one_line(words: tuple[str, ...], told: str) -> None:
    found = tasks.flags.wrong_word(words, tasks.namespace, "invoke")
    assert found.startswith(f"invoke {told}")
    assert "\n" not in found


def test_the_documents_make_no_slips() -> None:
    wrong = {}
    for name in ("README.md", "configs/README.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for line in re.findall(r"(?:invoke|scripts/local\.sh) ([a-z]+ [^`#\n<|]*)", text):
            words = shlex.split(line)
            if words[0] in tasks.namespace.task_names:
                wrong[line] = tasks.flags.wrong_word(words, tasks.namespace, "invoke")
    assert len(wrong) > 20
    assert not any(wrong.values()), wrong


def test_a_slip_ends_invoke_before_anything_starts() -> None:
    answer = invoke("runs", "--foo")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "invoke runs has no --foo. `invoke runs --help` lists what it has\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--dry", "evaluate", "--run", "latest", "--suite", "--no-exports"),
        ("evaluate", "--run=latest", "--split", "val", "--dry"),
        ("-d", "evaluate", "--run", "train", "--set", "seed=1", "--set", "seed=2"),
        ("export", "--run", "x", "--gguf", "q8_0,f16", "--merge"),
        ("evaluate", "--run", "x", "--suite", "a,b"),
        ("export", "--gguf", "--run", "x"),
        ("train", "--config", "c.yaml", "-R"),
        ("nobody", "--knows"),
        ("",),
        ("test", "--", "--what", "pytest", "takes"),
    ],
)
def test_what_invoke_takes_is_let_through(words: tuple[str, ...]) -> None:
    assert tasks.flags.wrong_word(words, tasks.namespace, "invoke") == ""


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SOLOTUNE_RUNTIME": "local"}
    environment.pop("SOLOTUNE_COMMAND", None)
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_on_the_host_each_stage_goes_to_the_service_that_its_config_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.delenv("SOLOTUNE_RUNTIME", raising=False)
    monkeypatch.setattr(tasks, "_has_gpu", lambda: True)
    monkeypatch.setattr(tasks.container, "run", lambda service, words, **_: started.append((service, *words)) or 0)
    monkeypatch.setattr(
        tasks.container, "run_stage", lambda service, words, **_: started.append((service, "as service", *words)) or 0
    )
    c = MockContext()
    for task in (
        lambda: tasks.fetch(c, "configs/sft_qlora.yaml", []),
        lambda: tasks.prepare(c, "configs/sft_qlora.yaml", []),
        lambda: tasks.plan(c, "configs/sft_qlora.yaml", []),
        lambda: tasks.plan(c, "configs/sft_qlora.yaml", [], vram="24"),
        lambda: tasks.train(c, [], config="configs/sft_qlora.yaml"),
        lambda: tasks.train(c, ["device=cpu"], config="configs/sft_qlora.yaml"),
        lambda: tasks.train(c, [], config="configs/smoke.yaml"),
        lambda: tasks.train(c, [], config="configs/not_there.yaml"),
        lambda: tasks.smoke(c),
        lambda: tasks.runs(c),
        lambda: tasks.chat(c, "no such run"),
        lambda: tasks.serve(c, "no such run"),
        lambda: tasks.serve(c, "no such run", vllm=True),
        lambda: tasks.test(c, k="x"),
        lambda: tasks.lint(c),
        lambda: tasks.shell(c),
    ):
        with pytest.raises(Exit) as left:
            task()
        assert left.value.code == 0
    qlora = ("--config", "configs/sft_qlora.yaml")
    smoke = ("--config", "configs/smoke.yaml")
    assert started == [
        ("fetch", "solotune", "fetch", *qlora),
        ("cpu", "solotune", "prepare", *qlora),
        ("gpu", "solotune", "plan", *qlora),
        ("cpu", "solotune", "plan", *qlora, "--vram", "24"),
        ("gpu", "as service", "solotune", "train", *qlora),
        ("cpu", "as service", "solotune", "train", *qlora, "--set", "device=cpu"),
        ("cpu", "as service", "solotune", "train", *smoke),
        ("cpu", "as service", "solotune", "train", "--config", "configs/not_there.yaml"),
        ("fetch", "solotune", "fetch", *smoke),
        ("cpu", "as service", "solotune", "pipeline", *smoke),
        ("cpu", "solotune", "runs"),
        ("cpu", "solotune", "chat", "--run", "no such run"),
        ("serve-cpu", "as service", "solotune", "serve", "--run", "no such run", "--port", "8000", "--host", "0.0.0.0"),
        ("cpu", "solotune", "serve", "--run", "no such run", "--port", "8000", "--vllm"),
        ("cpu", "invoke", "test", "-k", "x"),
        ("cpu", "invoke", "lint"),
        ("gpu", "bash"),
    ]


@pytest.mark.parametrize(
    ("files", "service"),
    [
        ({"a.yaml": "device: cpu\n"}, "cpu"),
        ({"a.yaml": "device: 'cpu'   # small\n"}, "cpu"),
        ({"a.yaml": "seed: 1\n"}, "gpu"),
        ({"a.yaml": "device: cuda\n"}, "gpu"),
        ({"a.yaml": "# device: cpu\n"}, "gpu"),
        ({"a.yaml": "model:\n  device: cpu\n"}, "gpu"),
        ({"a.yaml": "extends: b.yaml\n", "b.yaml": "device: cpu\n"}, "cpu"),
        ({"a.yaml": "extends: [b.yaml, c.yaml]\n", "b.yaml": "device: cpu\n", "c.yaml": "device: cuda\n"}, "gpu"),
        ({"a.yaml": "extends: [c.yaml, b.yaml]\n", "b.yaml": "device: cpu\n", "c.yaml": "device: cuda\n"}, "cpu"),
        (
            {"a.yaml": "extends:   # two\n  - c.yaml\n  - b.yaml # last\n", "b.yaml": "device: cpu\n", "c.yaml": ""},
            "cpu",
        ),
        ({"a.yaml": "extends: b.yaml\ndevice: cuda\n", "b.yaml": "device: cpu\n"}, "gpu"),
        ({"a.yaml": "extends: a.yaml\n"}, "gpu"),
    ],
)
def test_the_service_follows_from_device(
    files: dict[str, str], service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert tasks._service("a.yaml", []) == service
    assert tasks._service("a.yaml", ["device=cpu"]) == "cpu"
    assert tasks._service("a.yaml", ["device=cpu", "device=cuda"]) == "gpu"


def test_the_service_of_a_run_is_that_of_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    for run, device in (("20260101-a", "cpu"), ("20260102-b", "cuda")):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.yaml").write_text(f"seed: 0\ndevice: {device}\n")
    assert tasks._service_of_run("latest") == "gpu"
    assert tasks._service_of_run("20260101") == "cpu"
    assert tasks._service_of_run("runs/20260101-a/") == "cpu"
    assert tasks._service_of_run("nothing") == "cpu"


def test_every_config_of_the_repository_goes_where_the_loader_says() -> None:
    from solotune.config.load import load

    for path in [*ROOT.glob("configs/*.yaml")]:
        wanted = "cpu" if load(path).device == "cpu" else "gpu"
        assert tasks._service(str(path.relative_to(ROOT)), []) == wanted, path


def test_dry_starts_nothing(started: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    c = MockContext()
    c.config.run.dry = True
    with pytest.raises(Exit):
        tasks.evaluate(c, "latest")
    assert started == []
    assert "solotune evaluate --run latest" in capsys.readouterr().out


def test_clean_only_says_what_it_would_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    tasks.clean(MockContext())
    assert "would delete runs/" in capsys.readouterr().out
    assert (tmp_path / "runs" / "x").is_dir()
    tasks.clean(MockContext(), yes=True)
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "data" / "raw").is_dir()


def test_the_list_reads_like_a_table_of_contents() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "invoke", "--list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    names = [line.split()[0] for line in lines]
    assert {"fetch", "prepare", "plan", "train", "evaluate", "export", "pipeline", "smoke", "test", "lint"} <= set(
        names
    )
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
