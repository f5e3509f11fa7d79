"""kill -9 at any point of prepare: the old splits, the new ones, or none that look whole; and the next one is fine."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from solotune.config.schema import RunConfig

SWEEP = """
    import os, resource, shutil, signal, sys
    from pathlib import Path
    from solotune.artifacts.splits_dir import SplitsDir
    from solotune.config.schema import RunConfig
    from solotune.dataset import near, report  # loaded once; threads start in the children only
    from solotune.errors import ArtifactError
    from solotune.stages import prepare

    new, old = map(RunConfig.model_validate_json, sys.argv[1:3])
    starts_with_old, limits = sys.argv[3] == "old", range(*map(int, sys.argv[4].split(":")))
    splits = SplitsDir(Path(new.dataset.splits_dir))
    folder = splits.path
    steps_left = None

    def step():
        global steps_left
        if steps_left is not None:
            steps_left -= 1
            if steps_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, args):
        if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            step()
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
            step()

    sys.addaudithook(hook)
    # What a process has written outlives it: only a power cut needs the real fsync, and it takes most of the time.
    os.fsync = lambda descriptor: step()
    # The page takes longer than all the rest, and only the moment at which it is written matters here.
    report.of = lambda manifest, *more: f"{manifest.rows} {len(more)}"

    def in_a_child(work):
        child = os.fork()
        if child == 0:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            work()
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def killed_at_step(k):
        global steps_left
        steps_left = k
        prepare.run(new, replace=True)

    def killed_at_byte(k):
        # The write that would make a file longer than k bytes is cut there, and the next one kills.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (k, k))
        prepare.run(new, replace=True)

    def contents():
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}

    def rows(files):
        # The report is written anew after the rows are whole; the lock file of a dead process locks nothing.
        others = ("manifest.json", "report.html", ".staged-", ".lock")
        return {name: data for name, data in files.items() if not name.startswith(others)}

    def opened(config):
        try:
            splits.open(config.dataset)
        except ArtifactError as error:
            return str(error)
        return ""

    assert in_a_child(lambda: prepare.run(old)) == 0
    before = contents()
    assert in_a_child(lambda: prepare.run(new, replace=True)) == 0
    undisturbed = contents()
    assert rows(before) != rows(undisturbed)

    def survives(work, at):
        shutil.rmtree(folder)
        if starts_with_old:
            folder.mkdir()
            for name, data in before.items():
                (folder / name).write_bytes(data)
        code = in_a_child(work)
        if code == 0:
            return False
        assert code in (-signal.SIGKILL, -signal.SIGXFSZ), f"{at}: {code}"
        if not splits.manifest_path.exists():
            assert not opened(new).startswith("data/splits isn't"), at
            assert "unfinished" in opened(new) or "no data/splits" in opened(new), f"{at}: {opened(new)}"
        elif opened(new):
            assert starts_with_old and not opened(old), f"{at}: {opened(new)}"
            assert rows(contents()).items() >= rows(before).items(), f"{at}: old manifest, other rows"
        else:
            assert rows(contents()) == rows(undisturbed), f"{at}: new manifest, other rows"
        is_old = splits.manifest_path.exists() and bool(opened(new))
        assert in_a_child(lambda: prepare.run(new, replace=is_old)) == 0, f"after {at}"
        assert contents() == undisturbed, f"after {at}"
        assert not list(folder.glob(".staged*")), f"after {at}"
        return True

    steps = 0
    while survives(lambda: killed_at_step(steps + 1), f"step {steps + 1}"):
        steps += 1
    torn = sum(survives(lambda: killed_at_byte(k), f"byte {k}") for k in limits)
    print(steps, torn)
"""


def config(near: str, seed: int = 0) -> RunConfig:
    return RunConfig.model_validate(
        {
            "dataset": {
                "raw_files": ["raw.jsonl"],
                "splits_dir": "data/splits",
                "val_fraction": 0.2,
                "test_fraction": 0.2,
                "quarantine": "keep_going",
                "seed": seed,
                "dedup": {"near": near},
            },
            "model": {"name_or_path": "some/model", "revision": "0" * 40},
        }
    )


@pytest.fixture
def rows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of which some are near-duplicates of others, and one is broken."""
    monkeypatch.setenv("SOLOTUNE_MODELS", str(workspace / "no-models"))
    lines = []
    for n in range(48):
        answer = " ".join(f"word{n // 2}-{i}" for i in range(60)) + f" and {n}"
        turns = [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"id": f"r{n}", "messages": turns}))
    (workspace / "raw.jsonl").write_text("\n".join([*lines, "{"]) + "\n")
    return workspace


def sweep(new: RunConfig, old: RunConfig, start: str, limits: str) -> tuple[int, int]:
    arguments = [new.model_dump_json(), old.model_dump_json(), start, limits]
    command: list[Any] = [sys.executable, "-c", textwrap.dedent(SWEEP), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps, torn = map(int, done.stdout.split())
    return steps, torn


@pytest.mark.parametrize("start", ["empty", "old"])
def test_killed_at_any_step_it_leaves_the_old_splits_the_new_ones_or_none(start: str, rows: Path) -> None:
    """A step is a file opened for writing, renamed, deleted or flushed, or a folder made or removed."""
    steps, torn = sweep(config("cluster", seed=1), config("report"), start, "0:20000:3000")
    assert steps > 40
    assert torn > 3


@pytest.mark.slow
@pytest.mark.parametrize("start", ["empty", "old"])
@pytest.mark.parametrize(("near", "before"), [("cluster", "off"), ("report", "cluster"), ("off", "report")])
def test_killed_at_any_step_or_in_the_middle_of_any_write(near: str, before: str, start: str, rows: Path) -> None:
    steps, torn = sweep(config(near, seed=1), config(before), start, "0:30000:250")
    assert steps > 30
    assert torn > 50
