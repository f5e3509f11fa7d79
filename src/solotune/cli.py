"""argv -> config or run -> one stage -> exit code.

Stages are imported when they run: `solotune --help` loads no torch.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from solotune import known_errors
from solotune.arguments import parser
from solotune.console import complain, remember_config, safe, say
from solotune.errors import Interrupted, SolotuneError
from solotune.signals import asked_to_end

if TYPE_CHECKING:
    from solotune.config.schema import RunConfig

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 1 (our fault), 2 (yours to solve), 130 or 143 (stopped)."""
    arguments = parser().parse_args(argv)
    before = {number: signal.signal(number, _on_signal) for number in asked_to_end()}
    if os.getppid() == 1:  # a container's only program: after Ctrl-Z nobody could wake it
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        _COMMANDS[arguments.command](arguments)
    except Interrupted as stop:
        if str(stop):
            complain(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        complain(f"interrupted; {_NOT_HALF}")
        return 130
    except SolotuneError as error:
        if arguments.debug:
            raise
        for line in str(error).splitlines():
            complain(f"error: {line}")
        return error.exit_code
    except Exception as error:
        if arguments.debug:
            raise
        return _tell(error)
    finally:
        remember_config([])
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def program() -> None:
    """`main` as a process, which ends with it. A signal while the interpreter ends has nobody to tell: it just ends."""
    code = main()
    for number in (signal.SIGINT, *asked_to_end()):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    raise SystemExit(code)


_NOT_HALF = "what isn't finished isn't taken for whole. Run the same command again"


def _tell(error: Exception) -> int:
    """Prints an error that no stage foresaw, with its cause and fix where they are known; returns the exit code."""
    known = known_errors.explain(f"{type(error).__name__}: {error}")
    line = safe(f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0], 2000)
    if known is None:
        complain(f"error: {line}")
        complain("This looks like a fault in solotune; run it again with --debug and report what it prints")
        return 1
    if isinstance(error, OSError) and error.filename:
        complain(f"error: {safe(str(error.filename))}: {known.cause}")
    else:
        complain(f"error: {line}")
        complain(f"  {known.cause}")
    complain(f"  {known.fix}")
    return 2


def _fetch(arguments: Arguments) -> None:
    config = _config(arguments, metric_files=False)  # its container sees none, and no code of the user's runs online
    from solotune.environment import prepare_process

    asks_tasks = config.evaluation.suite is not None and bool(config.evaluation.suite.tasks)
    online = config.model.source == "hub" or config.dataset.hub is not None or asks_tasks
    prepare_process(device="cpu", online=online)
    from solotune.stages import fetch

    fetch.run(config)


def _prepare(arguments: Arguments) -> None:
    config = _config(arguments)
    from solotune.stages import prepare

    if arguments.show is not None:
        from solotune.stages import show

        show.run(config, arguments.show)
    elif arguments.check:
        prepare.check(config)
    else:
        prepare.run(config, replace=arguments.replace)


def _plan(arguments: Arguments) -> None:
    config = _config(arguments)
    # Only its size is asked for; with --vram the GPU isn't looked at.
    _offline(config.device if arguments.vram is None else "cpu")
    _tell_loading()
    from solotune.stages import plan

    plan.run(config, arguments.vram)


def _train(arguments: Arguments) -> None:
    config = _config(arguments) if arguments.config else None
    if config is None and arguments.resume is None:
        raise SolotuneError("train needs --config CONFIG, or --resume RUN")
    if config is None and arguments.set:
        raise SolotuneError("--set goes with --config", "A resume continues the run's own config")
    runs = Path(arguments.trial or "runs")
    _offline(config.device if config else _config_of_run(arguments.resume, runs).device)
    _tell_loading()
    from solotune.stages import train

    trial = train.Trial(Path(arguments.trial), arguments.until) if arguments.trial else None
    if arguments.resume:
        train.resume(arguments.resume, config, trial)
    elif config:
        train.run(config, arguments.run_id, trial, arguments.like)


def _evaluate(arguments: Arguments) -> None:
    _offline(_config_of_run(arguments.run).device)
    _tell_loading()
    from solotune.stages import evaluate

    suite = None if arguments.suite is None else [task for task in arguments.suite.split(",") if task]
    evaluate.run(arguments.run, arguments.split, suite, arguments.set, exports=not arguments.no_exports)


def _export(arguments: Arguments) -> None:
    _offline(_config_of_run(arguments.run).device)
    _tell_loading()
    from solotune.stages import export

    export.run(
        arguments.run,
        merge=arguments.merge or arguments.merge_base is not None,
        merge_base=arguments.merge_base,
        gguf=arguments.gguf,
        overrides=arguments.set,
    )


def _pipeline(arguments: Arguments) -> None:
    config = _config(arguments)
    from solotune.chains import pipeline

    pipeline.run(config, _given(arguments))


def _verify(arguments: Arguments) -> None:
    from solotune.chains import verify

    verify.run(arguments.run, arguments.steps)


def _reproduce(arguments: Arguments) -> None:
    from solotune.chains import reproduce

    reproduce.run(arguments.run)


def _chat(arguments: Arguments) -> None:
    _offline(_config_of_run(arguments.run).device)
    _tell_loading()
    from solotune.stages import chat

    chat.run(
        arguments.run,
        temperature=arguments.temperature,
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
    )


def _serve(arguments: Arguments) -> None:
    _offline(_config_of_run(arguments.run).device)
    from solotune.stages import serve

    if arguments.vllm:
        serve.print_vllm(arguments.run, arguments.port)
    else:
        _tell_loading()
        serve.run(arguments.run, arguments.host, arguments.port)


def _runs(arguments: Arguments) -> None:
    del arguments
    from solotune.stages import runs

    runs.run()


def _report(arguments: Arguments) -> None:
    from solotune.stages import report

    report.run(arguments.run)


def _doctor(arguments: Arguments) -> None:
    _offline("cuda")  # what a training sees: one GPU
    from solotune.stages import doctor

    doctor.run(json=arguments.json)


def _tensorboard(arguments: Arguments) -> None:
    from solotune.stages import tensorboard

    tensorboard.run(arguments.host, arguments.port)


def _config(arguments: Arguments, *, metric_files: bool = True) -> RunConfig:
    from solotune.config.load import load
    from solotune.metrics import problems

    remember_config(_given(arguments))
    # A wrong metric shows here, not after the training.
    return load(Path(arguments.config), arguments.set, partial(problems, files=metric_files))


def _given(arguments: Arguments) -> list[str]:
    return ["--config", arguments.config, *(word for value in arguments.set for word in ("--set", value))]


def _config_of_run(wanted: str, runs: Path = Path("runs")) -> RunConfig:
    from solotune.artifacts.run_dir import RunDir
    from solotune.config.load import load

    path = RunDir.find(runs, wanted).config
    remember_config(["--config", str(path)])
    return load(path)


def _offline(device: str) -> None:
    from solotune.environment import prepare_process

    prepare_process(device=device)


def _tell_loading() -> None:
    """Importing torch takes seconds, and on a slow disk many: nobody should wonder whether it started."""
    if "torch" not in sys.modules:
        say("loading torch and transformers")


_COMMANDS: dict[str, Callable[[Arguments], None]] = {
    "chat": _chat,
    "doctor": _doctor,
    "evaluate": _evaluate,
    "export": _export,
    "fetch": _fetch,
    "pipeline": _pipeline,
    "plan": _plan,
    "prepare": _prepare,
    "report": _report,
    "reproduce": _reproduce,
    "runs": _runs,
    "serve": _serve,
    "tensorboard": _tensorboard,
    "train": _train,
    "verify": _verify,
}


def _on_signal(number: int, frame: object) -> None:
    del frame
    raise Interrupted(f"stopped; {_NOT_HALF}", 128 + number)
