"""Rows of lm-evaluation-harness' own tasks: brought by `fetch` from a hub, read offline by `evaluate`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stages.hub import COMMIT, Hub, serving

from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.suite_data import SuiteData

# Importing lm-evaluation-harness takes long, and every command is a process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = "evaluation.suite={tasks: [arc_easy], limit: 6}"
ROOT = Path("data/hub/suite")


def rows(count: int) -> bytes:
    """In the format of allenai/ai2_arc."""
    lines = [
        {
            "id": f"q{i}",
            "question": f"Is {i} even?",
            "choices": {"text": ["yes", "no"], "label": ["A", "B"]},
            "answerKey": "AB"[i % 2],
        }
        for i in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    splits = ("train", "validation", "test")
    listed = "".join(f"  - split: {split}\n    path: ARC-Easy/{split}.jsonl\n" for split in splits)
    card = f"---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n{listed}---\n# arc\n"
    files = {"README.md": card.encode(), **{f"ARC-Easy/{split}.jsonl": rows(12) for split in splits}}
    with serving(Hub(files, name="allenai/ai2_arc")) as hub:
        yield hub


def solotune(hub: Hub, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """A process of its own: `datasets` reads the hub's address when it is imported. Its caches are new each time."""
    home = Path("home") / str(len(list(Path("home").glob("*"))))
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_TOKEN": token} if token else {}
    return subprocess.run(
        [sys.executable, "-m", "solotune", *arguments], capture_output=True, text=True, env=environment, check=False
    )


def fetch(hub: Hub, *arguments: str, setting: str = SMALL, token: str = "") -> subprocess.CompletedProcess[str]:
    return solotune(hub, "fetch", "--config", "small.yaml", "--set", setting, *arguments, token=token)


def test_a_task_of_the_harness_is_brought_once_and_asked_offline(finished_run: Path, hub: Hub) -> None:
    asked = ("evaluate", "--run", "latest", "--suite", "--set", SMALL, "--set", "evaluation.metrics=[]")
    missing = solotune(hub, *asked)
    assert missing.returncode == 2
    assert (
        "lm-evaluation-harness can't run arc_easy: the rows of allenai/ai2_arc aren't here. "
        "Bring them: `invoke fetch --config CONFIG --set 'evaluation.suite={tasks: [arc_easy]}'`"
    ) in missing.stderr
    assert "loaded in" not in missing.stdout, "before a model is loaded"
    assert not RunDir(finished_run).eval_report.exists()
    assert hub.asked == []

    first = fetch(hub, token="hf_secret")
    assert first.returncode == 0, first.stderr
    assert "Bearer hf_secret" in hub.tokens
    assert not any(b"hf_secret" in path.read_bytes() for path in Path("data").rglob("*") if path.is_file())
    assert not list(Path("home").rglob("*.jsonl")), "what came is kept once"
    assert "arc_easy: 1 data set brought" in first.stdout
    kept = SuiteData("allenai/ai2_arc", "ARC-Easy", {})
    manifest = kept.open()
    assert (manifest.name, manifest.config, manifest.revision) == ("allenai/ai2_arc", "ARC-Easy", COMMIT)
    assert sorted(path.name for path in ROOT.iterdir()) == [kept.path.name]

    hub.asked.clear()
    again = fetch(hub)
    assert again.returncode == 0, again.stderr
    assert "arc_easy: there already" in again.stdout
    assert hub.asked == []

    before = {path: path.stat().st_mtime_ns for path in ROOT.rglob("*")}
    done = solotune(hub, *asked)
    assert done.returncode == 0, done.stderr
    assert hub.asked == []
    assert {path: path.stat().st_mtime_ns for path in ROOT.rglob("*")} == before, "read only"
    report = RunDir(finished_run).report()
    assert report is not None
    assert report.suite is not None
    assert report.suite.data_sets == {"allenai/ai2_arc": [COMMIT]}
    assert {(task.task, task.metric, task.n) for task in report.suite.tasks} == {
        ("arc_easy", "acc,none", 6),
        ("arc_easy", "acc_norm,none", 6),
    }
    assert f"allenai/ai2_arc@{COMMIT[:12]}" in RunDir(finished_run).page.read_text()

    (file,) = ROOT.glob("*/rows/test/*.arrow")
    file.write_bytes(file.read_bytes()[:-1])
    cut = solotune(hub, *asked)
    assert cut.returncode == 2
    assert "is damaged: rows/test/data-00000-of-00001.arrow has" in cut.stderr
    assert "Delete that folder and run `invoke fetch --config CONFIG`" in cut.stderr


def test_what_cannot_be_had_is_one_line_and_leaves_nothing(finished_run: Path, hub: Hub) -> None:
    hub.refusal = "GatedRepo"
    gated = fetch(hub)
    assert gated.returncode == 2
    assert "allenai/ai2_arc" in gated.stderr
    assert "set HF_TOKEN in the environment" in gated.stderr
    assert len(gated.stderr.strip().splitlines()) == 1

    hub.refusal, hub.name = "", "nobody/nothing"
    gone = fetch(hub)
    assert gone.returncode == 2
    assert "the hub has no data set allenai/ai2_arc" in gone.stderr
    assert len(gone.stderr.strip().splitlines()) == 1
    assert list(ROOT.iterdir()) == []


def test_own_tasks_are_left_to_their_files_and_misspelt_ones_told(finished_run: Path, hub: Hub) -> None:
    own = fetch(hub, setting="evaluation.suite={tasks: [mine], include_path: elsewhere}")
    assert own.returncode == 0, own.stderr
    assert "mine: not of lm-evaluation-harness, so taken for your own, whose rows lie in files" in own.stdout
    misspelt = fetch(hub, setting="evaluation.suite={tasks: [arc_esay]}")
    assert misspelt.returncode == 2
    assert (
        "evaluation.suite.tasks: lm-evaluation-harness has no task 'arc_esay'; did you mean arc_easy" in misspelt.stderr
    )
    program = fetch(hub, setting="evaluation.suite={tasks: [humaneval]}")
    assert program.returncode == 2
    assert "humaneval can't be loaded: it computes with 'code_eval', a program that would be downl" in program.stderr
    assert hub.asked == []
