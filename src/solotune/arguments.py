"""The command line: every command and its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

from solotune import __version__
from solotune.config.gguf_types import TYPES


def parser() -> argparse.ArgumentParser:
    """What is parsed has the command's name in `command`, and `debug`."""
    whole = _Parser(prog="solotune", description="Fine-tune an instruction LLM on one GPU.")
    whole.add_argument("--version", action="version", version=f"solotune {__version__}")
    commands = _Commands(whole.add_subparsers(title="commands", metavar="COMMAND", required=True))
    _add_from_rows_to_adapter(commands)
    _add_measuring_and_shipping(commands)
    _add_proofs(commands)
    _add_looking(commands)
    return whole


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every error; upstream prints all of the options before it."""
        self.exit(2, f"error: {message}. `{self.prog} --help` lists the options\n")


class _Commands:
    def __init__(self, commands: argparse._SubParsersAction[_Parser]) -> None:
        self._commands = commands

    def add(self, name: str, help_: str) -> argparse.ArgumentParser:
        command = self._commands.add_parser(name, help=help_, description=help_)
        command.set_defaults(command=name)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return command

    def add_for_config(self, name: str, help_: str, *, required: bool = True) -> argparse.ArgumentParser:
        command = self.add(name, help_)
        command.add_argument("--config", metavar="FILE", required=required, help="a YAML file of configs/")
        overrides = "overrides a key, e.g. training.max_steps=10"
        command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=overrides)
        return command

    def add_for_run(self, name: str, help_: str) -> argparse.ArgumentParser:
        command = self.add(name, help_)
        command.add_argument("--run", metavar="RUN", required=True, help="run id, a unique prefix of it, or latest")
        return command


def _add_from_rows_to_adapter(commands: _Commands) -> None:
    commands.add_for_config("fetch", "bring base model and data sets, by revision (the only step with a network)")
    prepare = commands.add_for_config("prepare", "raw rows -> train, val and test, with a ledger")
    how = prepare.add_mutually_exclusive_group()
    how.add_argument("--replace", action="store_true", help="replace splits made from other rows or settings")
    how.add_argument("--check", action="store_true", help="verify the splits that are there, and write nothing")
    how.add_argument("--show", metavar="ID", help="print one row as tokens, with what is trained marked")
    plan = commands.add_for_config("plan", "will it fit, how many steps, how long")
    plan.add_argument(
        "--vram", type=float, metavar="GB", help="plan for a card that is sold with so many GB, not the one here"
    )
    train = commands.add_for_config("train", "splits -> adapter", required=False)
    train.add_argument("--resume", metavar="RUN", help="go on with an unfinished run")
    train.add_argument("--run-id", help=argparse.SUPPRESS)
    train.add_argument("--trial", help=argparse.SUPPRESS)  # verify's: where, and up to which step
    train.add_argument("--until", type=int, help=argparse.SUPPRESS)
    train.add_argument("--like", help=argparse.SUPPRESS)  # verify's and reproduce's: the run whose layout is taken
    commands.add_for_config("pipeline", "fetch, prepare, plan, train, evaluate, export --merge")


def _add_measuring_and_shipping(commands: _Commands) -> None:
    evaluate = commands.add_for_run("evaluate", "base, adapter and exports on held-out rows")
    evaluate.add_argument("--split", choices=("train", "val", "test"), help="instead of the config's evaluation.split")
    evaluate.add_argument(
        "--suite",
        nargs="?",
        const="",
        metavar="TASK,…",
        help="did it forget? Also tasks of lm-evaluation-harness; without a name those of evaluation.suite",
    )
    evaluate.add_argument("--no-exports", action="store_true", help="measure base and adapter alone")
    _add_overrides(evaluate, "evaluation", "overrides what the run's config says of evaluation")
    export = commands.add_for_run("export", "what people serve, with proof that it behaves like the adapter")
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
        type=_gguf_types,
        metavar="TYPE,…",
        help="also make GGUF files of the merged model: q8_0, f16, q4_k_m, …",
    )
    _add_overrides(export, "export", "overrides a bound")


def _add_proofs(commands: _Commands) -> None:
    verify = commands.add_for_run("verify", "is a run the same made twice, and stopped and resumed? To the bit")
    verify.add_argument("--steps", type=_whole_number(2), default=4, metavar="NUMBER", help="of each training; 4")
    commands.add_for_run("reproduce", "make a whole run again, and say what differs today")
    doctor = commands.add("doctor", "check this machine, each finding with its fix")
    doctor.add_argument("--json", action="store_true", help="the findings as JSON, for a bug report")


def _add_looking(commands: _Commands) -> None:
    chat = commands.add_for_run("chat", "talk to base and adapter side by side")
    temperature = "0, if not given: the likeliest token"
    chat.add_argument("--temperature", type=_not_negative, default=0.0, metavar="NUMBER", help=temperature)
    chat.add_argument("--seed", type=int, default=0, metavar="NUMBER", help="of what is drawn at a temperature; 0")
    chat.add_argument("--max-new-tokens", type=_whole_number(1), metavar="NUMBER", help="of an answer; the config's")
    serve = commands.add_for_run("serve", "the merged model behind an OpenAI-compatible endpoint of this machine")
    _add_address(serve, port=8000)
    serve.add_argument("--vllm", action="store_true", help="print the command that serves it with vLLM's own image")
    commands.add("runs", "list the runs and what they measured")
    report = commands.add("report", "pages that open in any browser: one of each run, one of all")
    report.add_argument("--run", metavar="RUN", help="of this run only: run id, a unique prefix of it, or latest")
    _add_address(commands.add("tensorboard", "the curves of all runs in a browser, live"), port=6006)


def _add_address(command: argparse.ArgumentParser, port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="where to listen; in a container 0.0.0.0")
    command.add_argument("--port", type=int, default=port, metavar="NUMBER", help=f"{port}, if not given")


def _add_overrides(command: argparse.ArgumentParser, section: str, help_: str) -> None:
    def of_section(text: str) -> str:
        if not text.startswith(f"{section}."):
            raise argparse.ArgumentTypeError(f"{text!r}: the rest of the config is what the run was trained with")
        return text

    metavar = f"{section}.KEY=VALUE"
    command.add_argument("--set", metavar=metavar, action="append", default=[], type=of_section, help=help_)


def _gguf_types(text: str) -> str:
    for kind in (part.strip().lower() for part in text.split(",")):
        if kind not in TYPES:
            near = get_close_matches(kind, TYPES, 1)
            meant = f"; did you mean {near[0]}?" if near else "."
            raise argparse.ArgumentTypeError(f"no GGUF type {kind!r}{meant} There are {', '.join(TYPES)}")
    return text


def _whole_number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} isn't a number of at least {least}")
        return int(text)

    return read


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of at least 0")
    return value
