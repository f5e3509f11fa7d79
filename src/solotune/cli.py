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

from solotune import __version__, known_errors
from solotune.console import complain, remember_config, safe, say
from solotune.errors import Interrupted, SolotuneError
from solotune.signals import asked_to_end

if TYPE_CHECKING:
    from solotune.config.schema import RunConfig

Arguments = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, 1 (our fault), 2 (yours to solve), 130 or 143 (stopped)."""
    arguments = _parser().parse_args(argv)
    remember_config([])
    before = {number: signal.signal(number, _on_signal) for number in asked_to_end()}
    if os.getppid() == 1:  # a container's only program: after Ctrl-Z nobody could wake it
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    try:
        command: Callable[[Arguments], None] = arguments.command
        command(arguments)
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
        for number, handler in before.items():  # one that comes while the interpreter ends has nobody to tell
            signal.signal(number, handler)
    return 0


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

    prepare_process(device="cpu", online=config.model.source == "hub" or config.dataset.hub is not None)
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
    _offline("cpu")  # shapes only: the GPU stays untouched
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
    evaluate.run(arguments.run, arguments.split, suite, arguments.set)


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

    given = ["--config", arguments.config, *(word for value in arguments.set for word in ("--set", value))]
    pipeline.run(config, given)


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

    remember_config(["--config", arguments.config, *(word for value in arguments.set for word in ("--set", value))])
    # A wrong metric shows here, not after the training.
    return load(Path(arguments.config), arguments.set, partial(problems, files=metric_files))


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="solotune", description="Fine-tune an instruction LLM on one GPU.")
    parser.add_argument("--version", action="version", version=f"solotune {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Arguments], None], help_: str, *, config: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_, description=help_)
        command.set_defaults(command=run)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if config:
            command.add_argument(
                "--config", metavar="FILE", required=config == "required", help="a YAML file of configs/"
            )
            command.add_argument(
                "--set",
                metavar="KEY=VALUE",
                action="append",
                default=[],
                help="overrides a key, e.g. training.max_steps=10",
            )
        return command

    add("fetch", _fetch, "bring the base model, by revision (the only step with a network)", config="required")
    prepare = add("prepare", _prepare, "raw rows -> train, val and test, with a ledger", config="required")
    how = prepare.add_mutually_exclusive_group()
    how.add_argument("--replace", action="store_true", help="replace splits made from other rows or settings")
    how.add_argument("--check", action="store_true", help="verify the splits that are there, and write nothing")
    how.add_argument("--show", metavar="ID", help="print one row as tokens, with what is trained marked")
    plan = add("plan", _plan, "will it fit, how many steps, how long", config="required")
    plan.add_argument("--vram", type=float, metavar="GIB", help="plan for a card of this size instead of the one here")
    train = add("train", _train, "splits -> adapter", config="optional")
    train.add_argument("--resume", metavar="RUN", help="go on with an unfinished run")
    train.add_argument("--run-id", help=argparse.SUPPRESS)
    train.add_argument("--trial", help=argparse.SUPPRESS)  # verify's: where, and up to which step
    train.add_argument("--until", type=int, help=argparse.SUPPRESS)
    train.add_argument("--like", help=argparse.SUPPRESS)  # verify's and reproduce's: the run whose layout is taken
    evaluate = add("evaluate", _evaluate, "base and adapter on held-out rows")
    _add_run(evaluate)
    evaluate.add_argument("--split", choices=("train", "val", "test"), help="instead of the config's evaluation.split")
    evaluate.add_argument(
        "--suite",
        nargs="?",
        const="",
        metavar="TASK,…",
        help="did it forget? Also tasks of lm-evaluation-harness; without a name those of evaluation.suite",
    )
    evaluate.add_argument(
        "--set",
        metavar="evaluation.KEY=VALUE",
        action="append",
        default=[],
        type=_of_evaluation,
        help="overrides what the run's config says of evaluation",
    )
    export = add("export", _export, "what people serve, with proof that it behaves like the adapter")
    _add_run(export)
    export.add_argument("--merge", action="store_true", help="also merge the adapter into the base model")
    export.add_argument(
        "--merge-base",
        choices=("dequantised", "original"),
        type=lambda text: text.replace("dequantized", "dequantised"),
        help="the weights that a QLoRA adapter is merged into, instead of those that the figures recommend",
    )
    export.add_argument(
        "--gguf",
        nargs="?",
        const="q8_0",
        action="append",
        default=[],
        metavar="TYPE,…",
        help="also make GGUF files of the merged model: q8_0, f16, q4_k_m, …",
    )
    export.add_argument(
        "--set", metavar="export.KEY=VALUE", action="append", default=[], type=_of_export, help="overrides a bound"
    )
    add("pipeline", _pipeline, "fetch, prepare, plan, train, evaluate, export --merge", config="required")
    verify = add("verify", _verify, "is a run the same made twice, and stopped and resumed? To the bit")
    _add_run(verify)
    verify.add_argument("--steps", type=_at_least_two, default=4, metavar="NUMBER", help="of each training; 4")
    reproduce = add("reproduce", _reproduce, "make a whole run again, and say what differs today")
    _add_run(reproduce)
    chat = add("chat", _chat, "talk to base and adapter side by side")
    _add_run(chat)
    chat.add_argument(
        "--temperature", type=_not_negative, default=0.0, metavar="NUMBER", help="0, if not given: the likeliest token"
    )
    chat.add_argument("--seed", type=int, default=0, metavar="NUMBER", help="of what is drawn at a temperature; 0")
    chat.add_argument("--max-new-tokens", type=_at_least_one, metavar="NUMBER", help="of an answer; the config's")
    serve = add("serve", _serve, "the merged model behind an OpenAI-compatible endpoint of this machine")
    _add_run(serve)
    serve.add_argument("--host", default="127.0.0.1", help="where to listen; in a container 0.0.0.0")
    serve.add_argument("--port", type=int, default=8000, metavar="NUMBER", help="8000, if not given")
    serve.add_argument("--vllm", action="store_true", help="print the command that serves it with vLLM's own image")
    add("runs", _runs, "list the runs and what they measured")
    report = add("report", _report, "pages that open in any browser: one of each run, one of all")
    report.add_argument("--run", metavar="RUN", help="of this run only: run id, a unique prefix of it, or latest")
    board = add("tensorboard", _tensorboard, "the curves of all runs in a browser, live")
    board.add_argument("--host", default="127.0.0.1", help="where to listen; in a container 0.0.0.0")
    board.add_argument("--port", type=int, default=6006, metavar="NUMBER", help="6006, if not given")
    doctor = add("doctor", _doctor, "check this machine, each finding with its fix")
    doctor.add_argument("--json", action="store_true", help="the findings as JSON, for a bug report")
    return parser


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", metavar="RUN", required=True, help="run id, a unique prefix of it, or latest")


def _of_export(text: str) -> str:
    if not text.startswith("export."):
        raise argparse.ArgumentTypeError(f"{text!r}: the rest of the config is what the run was trained with")
    return text


def _at_least_two(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of at least 2")
    return int(text)


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of at least 1")
    return int(text)


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of at least 0")
    return value


def _of_evaluation(text: str) -> str:
    if not text.startswith("evaluation."):
        raise argparse.ArgumentTypeError(f"{text!r}: the rest of the config is what the run was trained with")
    return text


def _on_signal(number: int, frame: object) -> None:
    del frame
    raise Interrupted(f"stopped; {_NOT_HALF}", 128 + number)
