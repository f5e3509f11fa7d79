"""What is wrong with the words behind a task, before invoke says only that it has no idea what they are."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from invoke.collection import Collection
from invoke.parser.argument import Argument
from invoke.program import Program
from invoke.tasks import Task


def wrong_word(words: Sequence[str], namespace: Collection, command: str) -> str:
    """One line about the first flag or value that its task doesn't know; empty where there is none.

    Args:
        words: the command line behind the program's name.
        namespace: its tasks.
        command: how the program is called.
    """
    tasks = {name: _arguments(namespace[name]) for name in namespace.task_names}
    task, flags, waiting, may_wait = "", _by_flag(Program().core_args()), "", False
    # Behind a task invoke takes its own flags, too; there `-c` would be another collection of tasks.
    everywhere = {name: one for name, one in flags.items() if name == "-h" or len(name) > 2 or not one.takes_value}
    for word in words:
        name, equals, _ = word.partition("=")
        is_bare = not word.startswith("-")
        if waiting or (may_wait and is_bare and word not in tasks):
            waiting, may_wait = "", False
            continue
        may_wait = False
        if word == "--" or (not task and is_bare and word not in tasks):
            return ""  # what is behind it is nobody's; or there is no such task, and invoke says so
        if word in tasks:
            task, flags = word, _by_flag(tasks[word])
        elif is_bare:
            return f"{command} {task} can't tell what {word or 'an empty word'} is{_meant(flags, word)}"
        elif argument := flags.get(name) or everywhere.get(name):
            waiting = name if argument.takes_value and not argument.optional and not equals else ""
            may_wait = bool(task) and argument.optional and not equals
        elif task:
            near = get_close_matches(name, flags, 1)
            meant = f"; did you mean {near[0]}?" if near else "."
            return f"{command} {task} has no {name}{meant} `{command} {task} --help` lists what it has"
    return f"{command} {task}: {waiting} needs a value; `{command} {task} --help` says which" if waiting else ""


def _arguments(task: Task[Any]) -> list[Argument]:
    helps = dict(task.help)
    arguments = task.get_arguments()
    task.help = helps  # it takes them out, and `--help` asks once more
    return arguments


def _by_flag(arguments: Sequence[Argument]) -> dict[str, Argument]:
    found = {}
    for argument in arguments:
        for name in (name.replace("_", "-") for name in argument.names):
            found[f"--{name}" if len(name) > 1 else f"-{name}"] = argument
            if argument.kind is bool and argument.default is True:
                found[f"--no-{name}"] = argument
    return found


def _meant(flags: dict[str, Argument], word: str) -> str:
    for flag in ("--config", "--run"):
        if word and flag in flags:
            return f"; did you mean `{flag} {word}`?"
    return ""
