"""The golden path: `invoke --list` is its table of contents.

Needs only invoke. Runs stages in this Python when SOLOTUNE_RUNTIME=local, which scripts/local.sh sets.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

ROOT = Path(__file__).resolve().parent


@task(
    help={"config": "a YAML file of configs/", "set": "KEY=VALUE, overrides a key (repeatable)"},
    iterable=["set"],
)
def fetch(c: Context, config: str, set: list[str]) -> None:
    """Bring the base model, by revision; the only step with a network."""
    _solotune("fetch", *_config(config, set))


@task(help={"config": "a YAML file of configs/", "replace": "replace splits made otherwise"}, iterable=["set"])
def prepare(c: Context, config: str, set: list[str], replace: bool = False) -> None:
    """Raw rows -> train, val and test, with a ledger of every row."""
    _solotune("prepare", *_config(config, set), *_flag("--replace", replace))


@task(help={"config": "a YAML file of configs/", "vram": "plan for a card of this many GiB"}, iterable=["set"])
def plan(c: Context, config: str, set: list[str], vram: str = "") -> None:
    """Will it fit, how many steps, how long; before anything is loaded."""
    _solotune("plan", *_config(config, set), *(["--vram", vram] if vram else []))


@task(help={"config": "a YAML file of configs/", "resume": "go on with an unfinished run"}, iterable=["set"])
def train(c: Context, set: list[str], config: str = "", resume: str = "") -> None:
    """Splits -> adapter, in runs/<run_id>/."""
    given = _config(config, set) if config else [word for value in set for word in ("--set", value)]
    _solotune("train", *given, *(["--resume", resume] if resume else []))


@task(help={"run": "run id, a unique prefix, or latest", "split": "instead of the config's"})
def evaluate(c: Context, run: str, split: str = "") -> None:
    """Base and adapter on held-out rows -> eval_report.json."""
    _solotune("evaluate", "--run", run, *(["--split", split] if split else []))


@task(help={"run": "run id, a unique prefix, or latest", "merge": "also merge the adapter into the base model"})
def export(c: Context, run: str, merge: bool = False) -> None:
    """What people serve, with proof that it behaves like the adapter."""
    _solotune("export", "--run", run, *_flag("--merge", merge))


@task(help={"config": "a YAML file of configs/"}, iterable=["set"])
def pipeline(c: Context, config: str, set: list[str]) -> None:
    """All of the above in order."""
    _solotune("pipeline", *_config(config, set))


@task
def smoke(c: Context) -> None:
    """The whole chain, small and real: configs/smoke.yaml, on a CPU."""
    _solotune("pipeline", "--config", "configs/smoke.yaml")


@task
def runs(c: Context) -> None:
    """List the runs and what they measured."""
    _solotune("runs")


@task
def doctor(c: Context) -> None:
    """Check this machine, each finding with its fix."""
    _solotune("doctor")


@task(help={"k": "only tests whose name matches", "slow": "the slow ones too"})
def test(c: Context, k: str = "", slow: bool = False) -> None:
    """Run the tests (quick ones; no network, no GPU)."""
    marker = ["-m", "not docker and not gpu and not browser"] if slow else []
    _python("-m", "pytest", "-q", *marker, *(["-k", k] if k else []))


@task
def lint(c: Context) -> None:
    """ruff, mypy, import rules, shellcheck, yamllint."""
    bin_ = Path(sys.executable).parent
    shells = [str(p) for p in (*sorted(ROOT.glob("scripts/*.sh")), ROOT / ".ci" / "run")]
    for command in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports"],
        ["shellcheck", *shells],
        ["yamllint", "--strict", "."],
    ):
        print("$", *command[:4], flush=True)
        code = os.spawnv(os.P_WAIT, str(bin_ / command[0]), command)
        if code:
            raise Exit(f"{command[0]} found something", code)


@task(help={"yes": "really delete"})
def clean(c: Context, yes: bool = False) -> None:
    """Say which runs, splits and models there are; --yes deletes them."""
    folders = [p for p in (ROOT / "runs", ROOT / "data" / "splits", ROOT / "models") if p.is_dir() and any(p.iterdir())]
    for folder in folders:
        print(f"{'deleting' if yes else 'would delete'} {folder.relative_to(ROOT)}/")
        if yes:
            shutil.rmtree(folder)
    if folders and not yes:
        print("`invoke clean --yes` does it")


def _config(config: str, overrides: list[str]) -> list[str]:
    return ["--config", config, *(word for value in overrides for word in ("--set", value))]


def _flag(name: str, given: bool) -> list[str]:
    return [name] if given else []


def _solotune(*arguments: str) -> None:
    """Becomes the stage: its exit code, signals and progress bar are the terminal's own."""
    if os.environ.get("SOLOTUNE_RUNTIME") != "local":
        raise Exit(
            "no container to run in: use `scripts/local.sh TASK`, which needs neither Docker nor a GPU",
            code=2,
        )
    _python("-P", "-m", "solotune", *arguments)


def _python(*arguments: str) -> None:
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, *arguments])


namespace = Collection(fetch, prepare, plan, train, evaluate, export, pipeline, smoke, runs, doctor, test, lint, clean)
namespace.configure({"auto_dash_names": True})
