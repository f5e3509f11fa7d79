"""The golden path: `invoke --list` is its table of contents, `invoke --dry TASK` prints what TASK would start.

Needs only invoke and Docker: stages run in the container. With SOLOTUNE_RUNTIME=local, which the image and
scripts/local.sh set, they run in this Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task as any_task

ROOT = Path(__file__).resolve().parent
SHELL_FILES = (
    "scripts/*.sh",
    "docker/*.sh",
    "docker/solotune",
    ".devcontainer/*.sh",
    ".ci/*",
    "tests/wsl/*.*",
    "tests/wsl/machine/[mu]*/**/*",
)
_OF_CONFIG = {"config": "a YAML file of configs/", "set": "KEY=VALUE, overrides a key (repeatable)"}
sys.path.insert(0, str(ROOT / "docker"))
from host import container, flags, image  # noqa: E402  beside the Dockerfile, on no other path

# A letter would be the first free one of a flag's name: another in each task, and -h taken from help.
task = partial(any_task, auto_shortflags=False)


@task(
    help={
        "base_image": "instead of the Dockerfile's, e.g. from a mirror",
        "apt_snapshot": "an Ubuntu snapshot id instead of the Dockerfile's; 'today' for the archive as it is",
        "no_cache": "every layer anew",
    }
)
def build(c: Context, base_image: str = "", apt_snapshot: str = "", no_cache: bool = False) -> None:
    """Build the pinned image."""
    _on_host("build")
    snapshot = {"": None, "today": ""}.get(apt_snapshot, apt_snapshot)
    _leave(lambda: image.build(base_image, snapshot, no_cache=no_cache, dry=_dry(c)))


@task(
    help=_OF_CONFIG,
    iterable=["set"],
    positional=[],
)
def fetch(c: Context, config: str, set: list[str]) -> None:
    """Bring base model and data sets; the only step with a network."""
    given = _config(config, set)
    _refuse_elsewhere(config)
    _solotune(c, "fetch", "fetch", *given)


@task(
    help={
        **_OF_CONFIG,
        "replace": "replace splits made otherwise",
        "check": "verify the splits that are there",
        "show": "print the row with this id as tokens, with what is trained marked",
    },
    iterable=["set"],
    positional=[],
)
def prepare(
    c: Context, config: str, set: list[str], replace: bool = False, check: bool = False, show: str = ""
) -> None:
    """Raw rows -> train, val and test, with a ledger of every row."""
    flags = [*_flag("--replace", replace), *_flag("--check", check), *(["--show", show] if show else [])]
    _solotune(c, "cpu", "prepare", *_config(config, set), *flags)


@task(
    help={
        **_OF_CONFIG,
        "vram": "plan for a GPU that is sold with so many GB, not the one here",
    },
    iterable=["set"],
    positional=[],
)
def plan(c: Context, config: str, set: list[str], vram: str = "") -> None:
    """Will it fit, and how long will it take, before anything loads."""
    given = _config(config, set)
    service = _service(config, set) if _has_gpu() and not vram else "cpu"
    _solotune(c, service, "plan", *given, *(["--vram", vram] if vram else []))


@task(
    help={
        **_OF_CONFIG,
        "resume": "go on with an unfinished run",
    },
    iterable=["set"],
)
def train(c: Context, set: list[str], config: str = "", resume: str = "") -> None:
    """Splits -> adapter, in runs/<run_id>/."""
    given = _config(config, set) if config else [word for value in set for word in ("--set", value)]
    service = _service(config, set) if config else _service_of_run(resume)
    _stage(c, service, "train", *given, *(["--resume", resume] if resume else []))


@task(
    help={
        "run": "run id, a unique prefix, or latest",
        "split": "instead of the config's",
        "suite": "did it forget? Also tasks of lm-evaluation-harness: TASK,TASK, or those of the config",
        "exports": "--no-exports measures base and adapter alone",
        "set": "overrides what the run's config says of evaluation, e.g. evaluation.max_examples=50",
    },
    optional=["suite"],
    iterable=["set"],
    positional=[],
)
def evaluate(
    c: Context,
    run: str,
    split: str = "",
    suite: str | bool = "",
    exports: bool = True,
    set: list[str] | None = None,
) -> None:
    """Base, adapter, exports on held-out rows -> eval_report.json."""
    of_run = _run(run)
    tasks = ["--suite", *([suite] if isinstance(suite, str) else [])] if suite else []
    settings = [word for value in set or () for word in ("--set", value)]
    of_split = ["--split", split] if split else []
    without = _flag("--no-exports", not exports)
    _stage(c, _service_of_run(run), "evaluate", *of_run, *of_split, *tasks, *without, *settings)


@task(
    help={
        "run": "run id, a unique prefix, or latest",
        "merge": "also merge the adapter into the base model",
        "merge_base": "dequantised or original; else what the figures recommend",
        "gguf": "also GGUF files of the merged model: q8_0 if nothing is given, or q8_0,f16,q4_k_m,…",
        "set": "overrides a bound, e.g. export.max_kl=0.1",
    },
    optional=["gguf"],
    iterable=["set"],
    positional=[],
)
def export(
    c: Context, run: str, set: list[str], merge: bool = False, merge_base: str = "", gguf: str | bool = ""
) -> None:
    """What people serve, with proof that it behaves like the adapter."""
    of_run = _run(run)
    base = ["--merge-base", merge_base] if merge_base else []
    types = ["--gguf", *([gguf] if isinstance(gguf, str) else [])] if gguf else []
    bounds = [word for value in set for word in ("--set", value)]
    _stage(c, _service_of_run(run), "export", *of_run, *_flag("--merge", merge), *base, *types, *bounds)


@task(
    help=_OF_CONFIG,
    iterable=["set"],
    positional=[],
)
def pipeline(c: Context, config: str, set: list[str]) -> None:
    """fetch, prepare, plan, train, evaluate, export --merge."""
    _pipeline(c, config, set)


@task
def smoke(c: Context) -> None:
    """The whole chain, small and real: configs/smoke.yaml, on a CPU."""
    _pipeline(c, "configs/smoke.yaml", [])


@task(
    help={"run": "run id, a unique prefix, or latest", "steps": "of each of its trainings; 4, if not given"},
    positional=[],
)
def verify(c: Context, run: str, steps: str = "") -> None:
    """Is a run the same made twice, and stopped and resumed?"""
    of_run = _run(run)
    _stage(c, _service_of_run(run), "verify", *of_run, *(["--steps", steps] if steps else []))


@task(help={"run": "run id, a unique prefix, or latest"}, positional=[])
def reproduce(c: Context, run: str) -> None:
    """Make a whole run again; say what differs today."""
    of_run = _run(run)
    _stage(c, _service_of_run(run), "reproduce", *of_run)


@task(
    help={
        "run": "run id, a unique prefix, or latest",
        "temperature": "0, if not given: the likeliest token, always",
        "seed": "of what is drawn at a temperature; 0",
        "max_new_tokens": "of an answer; the config's",
    },
    positional=[],
)
def chat(c: Context, run: str, temperature: str = "", seed: str = "", max_new_tokens: str = "") -> None:
    """Talk to base and adapter side by side; also from a script's standard input."""
    of_run = _run(run)
    given = {"--temperature": temperature, "--seed": seed, "--max-new-tokens": max_new_tokens}
    flags = [word for name, value in given.items() if value for word in (name, value)]
    _solotune(c, _service_of_run(run), "chat", *of_run, *flags)


@task(
    help={
        "run": "run id, a unique prefix, or latest",
        "port": "on 127.0.0.1",
        "vllm": "print the command that serves it with vLLM's own image",
    },
    positional=[],
)
def serve(c: Context, run: str, port: int = 8000, vllm: bool = False) -> None:
    """The merged model behind an OpenAI-compatible endpoint; Ctrl-C ends it."""
    given = ["serve", *_run(run), "--port", str(port)]
    if _is_local() or vllm:
        _solotune(c, "cpu", *given, *_flag("--vllm", vllm))
        return
    command = ["solotune", *given, "--host", _EVERYWHERE]
    service = f"serve-{_service_of_run(run)}"
    _leave(lambda: container.run_stage(service, command, variables={"SERVE_PORT": str(port)}, dry=_dry(c)))


@task
def runs(c: Context) -> None:
    """List the runs and what they measured."""
    _solotune(c, "cpu", "runs")


@task(help={"run": "of this run only: run id, a unique prefix, or latest"})
def report(c: Context, run: str = "") -> None:
    """Pages for any browser: one of each run, one of all."""
    _solotune(c, "cpu", "report", *(["--run", run] if run else []))


@task(help={"port": "on 127.0.0.1"})
def tensorboard(c: Context, port: int = 6006) -> None:
    """Curves of all runs, live; Ctrl-C ends it."""
    if _is_local():
        _solotune(c, "cpu", "tensorboard", "--port", str(port))
    command = ["solotune", "tensorboard", "--host", _EVERYWHERE, "--port", str(port)]
    _leave(lambda: container.run_stage("tensorboard", command, variables={"TENSORBOARD_PORT": str(port)}, dry=_dry(c)))


@task(help={"cpu": "leave the GPU out"})
def doctor(c: Context, cpu: bool = False) -> None:
    """Check host and container, each finding with its fix."""
    if _is_local():
        _solotune(c, "cpu", "doctor")
    service = "cpu" if cpu or not _has_gpu() else "gpu"
    host_part = ["scripts/setup_wsl.sh", *_flag("--cpu", cpu)]
    if _dry(c):
        print(*host_part)
        _solotune(c, service, "doctor")
    host = subprocess.run(host_part, cwd=ROOT, check=False).returncode
    print(flush=True)
    inside = _in_container(lambda: container.run(service, ["solotune", "doctor"]))
    raise Exit(code=inside or host)


@task(help={"k": "only tests whose name matches", "slow": "the slow ones too"})
def test(c: Context, k: str = "", slow: bool = False) -> None:
    """Run the tests (quick ones; no network, no GPU)."""
    if not _is_local():
        again = ["invoke", "test", *_flag("--slow", slow), *(["-k", k] if k else [])]
        _leave(lambda: container.run("cpu", again, dry=_dry(c)))
    # Quick tests run side by side, a thread each; slow ones spread their own processes.
    how = ["-m", "not docker and not gpu and not browser"] if slow else ["-n", "2", "--dist", "loadfile"]
    if not slow:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    _python(c, "-m", "pytest", "-q", *how, *(["-k", k] if k else []))


@task
def lint(c: Context) -> None:
    """Check style, types, import rules, Dockerfile, shell, YAML."""
    if not _is_local():
        _leave(lambda: container.run("cpu", ["invoke", "lint"], dry=_dry(c)))
    bin_ = Path(sys.executable).parent
    shells = [path for pattern in SHELL_FILES for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    for command in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["lint-imports", "--no-cache"],
        ["hadolint", "docker/Dockerfile"],
        ["shellcheck", *map(str, shells)],
        ["yamllint", "--strict", "."],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", "compose.ca.yaml"],
    ):
        print("$", *(command if _dry(c) else command[:4]), flush=True)
        code = 0 if _dry(c) else os.spawnv(os.P_WAIT, str(bin_ / command[0]), command)
        if code:
            raise Exit(f"{command[0]} found something", code)


@task(help={"package": "only this one (repeatable); all of them otherwise"}, iterable=["package"])
def lock(c: Context, package: list[str]) -> None:
    """Take newer versions into uv.lock, and say what to check."""
    which = [word for name in package for word in ("--upgrade-package", name)] or ["--upgrade"]
    if _dry(c):
        print("python3 scripts/bootstrap_uv.py  # the pinned uv")
        print("uv lock", *which)
        return
    brought = subprocess.run(
        [sys.executable, "-I", "scripts/bootstrap_uv.py"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    code = (
        brought.returncode or subprocess.run([brought.stdout.strip(), "lock", *which], cwd=ROOT, check=False).returncode
    )
    if code:
        raise Exit("uv.lock is as it was", code)
    print('next: CONTRIBUTING.md, "Dependencies", says what to check; `git diff uv.lock` shows what changed')


@task(help={"cpu": "leave the GPU out"})
def shell(c: Context, cpu: bool = False) -> None:
    """A shell in the container, where the stages run."""
    _on_host("shell")
    _leave(lambda: container.run("cpu" if cpu or not _has_gpu() else "gpu", ["bash"], dry=_dry(c)))


@task(help={"yes": "really delete"})
def clean(c: Context, yes: bool = False) -> None:
    """Say what could be deleted; --yes deletes it."""
    yes = yes and not _dry(c)
    folders = [p for p in (ROOT / "runs", ROOT / "data" / "splits", ROOT / "models") if p.is_dir() and any(p.iterdir())]
    for folder in folders:
        print(f"{'deleting' if yes else 'would delete'} {folder.relative_to(ROOT)}/")
        if yes:
            shutil.rmtree(folder)
    if folders and not yes:
        print(f"`{os.environ.get('SOLOTUNE_COMMAND', 'invoke')} clean --yes` does it")


_EVERYWHERE = "0.0.0.0"  # noqa: S104  in the container; compose.yaml publishes it on 127.0.0.1


def _config(config: str | None, overrides: list[str]) -> list[str]:
    if not config:
        raise Exit("which config? Add `--config configs/smoke.yaml`, or another YAML file of configs/", code=2)
    return ["--config", config, *(word for value in overrides for word in ("--set", value))]


def _run(run: str | None) -> list[str]:
    if not run:
        command = os.environ.get("SOLOTUNE_COMMAND", "invoke")
        raise Exit(f"which run? Add `--run latest`, or an id that `{command} runs` lists", code=2)
    return ["--run", run]


def _flag(name: str, given: bool) -> list[str]:
    return [name] if given else []


def _pipeline(c: Context, config: str, overrides: list[str]) -> None:
    given = _config(config, overrides)
    _refuse_elsewhere(config)
    if not _is_local():  # where a network is needed, and nowhere else
        code = _in_container(
            lambda: container.run("fetch", ["solotune", "fetch", *given], network_ca=True, dry=_dry(c))
        )
        if code:
            raise Exit(code=code)
    _stage(c, _service(config, overrides), "pipeline", *given)


def _refuse_elsewhere(config: str) -> None:
    if not _is_local() and not (ROOT / config).resolve().is_relative_to(ROOT / "configs"):
        raise Exit(f"{config}: fetch, which has a network, sees configs/ and nothing else of the checkout", code=2)


def _solotune(c: Context, service: str, *arguments: str) -> None:
    """A command of a few seconds, or one that may run beside others."""
    if not _is_local():
        command = ["solotune", *arguments]
        _leave(lambda: container.run(service, command, network_ca=service == "fetch", dry=_dry(c)))
    _python(c, "-P", "-m", "solotune", *arguments)


def _stage(c: Context, service: str, *arguments: str) -> None:
    """A stage that may run for hours: one at a time on a service, which `docker compose stop` ends."""
    if not _is_local():
        _leave(lambda: container.run_stage(service, ["solotune", *arguments], dry=_dry(c)))
    _python(c, "-P", "-m", "solotune", *arguments)


def _python(c: Context, *arguments: str) -> None:
    """Becomes the command: its exit code, signals and progress bar are the terminal's own."""
    command = [sys.executable, *arguments]
    if _dry(c):
        print(*command)
        raise Exit(code=0)
    os.chdir(ROOT)
    os.execv(sys.executable, command)


def _leave(start: Callable[[], int]) -> None:
    raise Exit(code=_in_container(start))


def _in_container(start: Callable[[], int]) -> int:
    try:
        return start()
    except image.Refused as refused:
        raise Exit(str(refused), code=2) from None
    except KeyboardInterrupt:  # before the container had the terminal
        return 130


def _is_local() -> bool:
    return os.environ.get("SOLOTUNE_RUNTIME") == "local"


def _on_host(name: str) -> None:
    if _is_local():
        here = f"{os.environ.get('SOLOTUNE_COMMAND', 'invoke')} {name}"
        raise Exit(
            f"{here}: here the stages run in this Python, without the image. `invoke {name}` is for the host of a "
            "Docker engine",
            code=2,
        )


def _dry(c: Context) -> bool:
    return bool(c.config.run.dry)


def _has_gpu() -> bool:
    return Path("/dev/dxg").exists() or shutil.which("nvidia-smi") is not None


def _service(config: str, overrides: list[str]) -> str:
    """gpu or cpu, as the config's `device` says; the stage itself checks the config."""
    given = [value.partition("=")[2] for value in overrides if value.startswith("device=")]
    device = given[-1] if given else _device(ROOT / config, depth=8)
    return "cpu" if device == "cpu" else "gpu"


def _service_of_run(run: str) -> str:
    known = sorted(path.parent.name for path in ROOT.glob("runs/*/config.yaml"))
    run = run.removeprefix("runs/").strip("/")
    matching = known[-1:] if run == "latest" else [name for name in known if name.startswith(run)]
    # Without such a run there is nothing to do on a GPU but to say so.
    return _service(f"runs/{matching[0]}/config.yaml", []) if matching else "cpu"


def _device(config: Path, depth: int) -> str | None:
    """`device` of a config, or of the last of those that it extends. Two keys of one line each need no YAML parser."""
    if not config.is_file() or depth == 0:
        return None if config.is_file() else "cpu"  # the stage says that it isn't there
    text = config.read_text(encoding="utf-8", errors="replace")
    if own := re.search(r"^device:\s*[\"']?(\w+)", text, re.MULTILINE):
        return own[1]
    extends = re.search(r"^extends:(.*(?:\n[ \t]*-.*|\n[ \t]*#.*|\n[ \t]*$)*)", text, re.MULTILINE)
    parents = re.findall(r"[^\s\[\],\"']+\.ya?ml", re.sub(r"#.*", "", extends[1])) if extends else []
    devices = [_device(config.parent / parent, depth - 1) for parent in parents]
    return next((device for device in reversed(devices) if device), None)


namespace = Collection(
    build,
    doctor,
    fetch,
    prepare,
    plan,
    train,
    evaluate,
    export,
    pipeline,
    smoke,
    verify,
    reproduce,
    chat,
    serve,
    runs,
    report,
    tensorboard,
    test,
    lint,
    lock,
    shell,
    clean,
)
namespace.configure({"auto_dash_names": True})
program = Path(sys.argv[0])
if (program.parent.name if program.stem == "__main__" else program.stem) in ("invoke", "inv") and (
    wrong := flags.wrong_word(sys.argv[1:], namespace, os.environ.get("SOLOTUNE_COMMAND", "invoke"))
):
    print(wrong, file=sys.stderr)
    sys.exit(2)
