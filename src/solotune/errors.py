"""What a user can be told, as one tree.

SolotuneError                 exit code 2: one line, no traceback, says what to do next
├── ConfigError               the YAML files or --set values; holds every problem at once
├── DataError                 raw rows, splits
├── ArtifactError             a folder on disk is missing, unfinished, damaged or already there
├── ModelError                base model, tokenizer, chat template, adapter
├── MachineError              this machine can't do what the config asks for
└── ProofError                a measured figure is outside its tolerance
Interrupted                   exit code 130 (Ctrl-C) or 143 (SIGTERM)

Anything else that reaches the command line is a fault of ours: exit code 1.
"""

from __future__ import annotations


class SolotuneError(Exception):
    """A problem that the user can solve.

    Args:
        what: what happened, and where.
        fix: the command or edit that solves it.
    """

    exit_code = 2

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what if not fix else f"{what}. {fix}")
        self.what = what
        self.fix = fix


class ConfigError(SolotuneError):
    """One or more problems in the configuration, all of them at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(SolotuneError):
    """Raw data or splits can't be used."""


class ArtifactError(SolotuneError):
    """A folder that a stage reads or writes isn't in the state that the stage needs."""


class ModelError(SolotuneError):
    """The base model, its tokenizer, its chat template or the adapter can't be used."""


class MachineError(SolotuneError):
    """The machine lacks something that the config asks for."""


class ProofError(SolotuneError):
    """What was written to disk doesn't behave like what was trained."""


class Interrupted(BaseException):
    """A stop that was asked for; carries what to do next.

    Derived from BaseException, as KeyboardInterrupt is, so that no `except Exception` on the way swallows it.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code
