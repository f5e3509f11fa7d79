"""What a function of the user's says: `def score(prediction: str, reference: str) -> float | None`.

Range: 0..1, higher is better; None where the function gives None. Anything else stops the stage, with the row.
The file lies in `metrics/` of the repository and stands alone: it may import what is installed, but no file beside it.
Every stage but `fetch` runs it, to see that the function is there. Its sha256 is kept with the results, so that it is
known which code measured.
Normalisation, reference: the user's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from solotune.config.schema import Text
from solotune.console import safe
from solotune.errors import SolotuneError
from solotune.metrics.kinds import AnswerOptions, BadOption, Scorer

FOLDER = "metrics"


class Python(AnswerOptions):
    file: Text
    """The file, such as metrics/mine.py."""
    function: Text = "score"
    """The function in it."""

    def scorer(self) -> Scorer:
        source = _read(self.file)
        digest = hashlib.sha256(source).hexdigest()
        function = _function(_run(self.file, source, digest), self.file, self.function)

        def python(prediction: str, reference: str) -> float | None:
            try:
                value = function(prediction, reference)
            except (Exception, SystemExit) as error:  # whatever the user's code does
                raise SolotuneError(_told(error, self.file), f"Correct {self.file}") from error
            if value is None:
                return None
            number = _number(value)
            if not 0 <= number <= 1:
                raise SolotuneError(
                    f"{self.file}: {self.function} gives {safe(repr(value))} ({type(value).__name__})",
                    "A score is a number from 0 to 1, or None where it doesn't apply",
                )
            return number

        return Scorer(python, f"{self.file}: {self.function}, sha256 {digest[:12]}")


def _read(file: str) -> bytes:
    root = Path.cwd().resolve()
    try:
        path = Path(file).resolve()
        # A link that leads out of the checkout leads nowhere in the container, and its target is in no commit.
        if Path(file).is_absolute() or not path.is_relative_to(root / FOLDER):
            raise BadOption("file", f"{file!r} isn't in this repository's {FOLDER}/; write it as {FOLDER}/NAME.py")
        return path.read_bytes()
    except OSError as error:
        raise BadOption("file", f"{file!r} can't be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise BadOption("file", f"{file!r} can't be read: {error}") from None


def _run(file: str, source: bytes, digest: str) -> ModuleType:
    """The module, made of the very bytes that were hashed: no cache of compiled code is read or written."""
    name = f"solotune_metric_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise BadOption("file", f"{file!r} is no Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module there
    try:
        exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  (the user asks for it)
    except (Exception, SystemExit) as error:
        raise BadOption("file", _told(error, file)) from error
    return module


def _function(module: ModuleType, file: str, name: str) -> Callable[[str, str], Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise BadOption("function", f"there is no function {name!r} in {file}: def {name}(prediction, reference)")
    try:
        inspect.signature(function).bind("", "")
    except TypeError:
        raise BadOption("function", f"{name!r} of {file} doesn't take two texts: prediction, reference") from None
    return function  # type: ignore[no-any-return]


def _number(value: object) -> float:
    """NaN where the value is no number, or a vast one."""
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:
        return math.nan


def _told(error: BaseException, file: str) -> str:
    """`metrics/mine.py:12: KeyError: 'total'`, with the line of the file that led there."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename == file:
        lines, message = [error.lineno], error.msg
    place = f"{file}:{lines[-1]}" if lines else file
    return f"{place}: {type(error).__name__}: {safe(message.strip() or 'no message')}"
