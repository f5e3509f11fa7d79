"""What people see: lines, tables and progress, on a terminal or in a log file."""

from __future__ import annotations

import errno
import os
import re
import select
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

_PLAIN_EVERY_SECONDS = 10.0


def say(text: str = "") -> None:
    """Prints one line for people; flushed, so that a log file shows it at once."""
    with nobody_listens():
        print(as_started(text), flush=True)


def warn(text: str) -> None:
    """Prints one line on the error stream."""
    complain(f"warning: {text}")


def complain(text: str) -> None:
    """Prints one line on the error stream, as it is."""
    with nobody_listens():
        print(as_started(text), file=sys.stderr, flush=True)


@contextmanager
def nobody_listens() -> Iterator[None]:
    """For whatever prints: a pipe whose reader has gone, or a terminal that was closed, ends no work.

    Ctrl-C ends `tee` along with the stage, which has a checkpoint to save and nobody to tell. From then on what is
    printed goes nowhere.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if not _is_open(stream):
                os.dup2(nowhere, stream)
        os.close(nowhere)


def _is_open(stream: int) -> bool:
    try:
        os.write(stream, b"")  # nothing: a terminal that was closed refuses even that
    except OSError:
        return False
    poll = select.poll()
    poll.register(stream, 0)  # a pipe without a reader takes nothing happily, and is in error
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def as_started(text: str) -> str:
    """Commands in messages are written `invoke TASK --config CONFIG`; shown are the program and config of today."""
    text = _COMMAND.sub(f"{os.environ.get('SOLOTUNE_COMMAND', 'scripts/local.sh')} ", text)

    def config(found: re.Match[str]) -> str:
        fetch = found[1] or ""
        return found[0] if not _given or (fetch and _is_a_runs()) else fetch + _given

    return _CONFIG.sub(config, text)


def remember_config(arguments: Sequence[str]) -> None:
    """Takes the `--config …` and `--set …` of this command, or of its run, for the commands that messages name."""
    global _given  # noqa: PLW0603  one process is one command
    _given = shlex.join(arguments)


_COMMAND = re.compile("(?<=`)invoke |(?<=^next: )invoke |(?<= && )invoke ", re.MULTILINE)
"""Where a message names a command; a row of somebody's data may speak of invoking things, too."""
_CONFIG = re.compile("(fetch )?--config CONFIG")
_given = ""


def _is_a_runs() -> bool:
    """Where fetch has a network, it sees configs/ and no runs."""
    return _given.startswith("--config runs/")


def safe(text: str, limit: int = 200) -> str:
    """Text from data, made harmless for a terminal: no escapes, no line breaks, at most `limit` characters.

    The command line writes row ids and contents that somebody else chose; a terminal obeys escape sequences.
    """
    shown = "".join(
        c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode("utf-8", "backslashreplace"))
        for c in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a table, first column left, the others right; the same text on a terminal and in a file."""
    widths = [max(len(str(r[i])) for r in [header, *rows]) for i in range(len(header))]
    if title:
        say(title)

    def line(cells: Sequence[str]) -> str:
        first = str(cells[0]).ljust(widths[0])
        return "  " + "  ".join([first, *(str(c).rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])

    say(line(header))
    say("  " + "  ".join("-" * w for w in widths))
    for row in rows:
        say(line(row))


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `3 forward passes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def duration(seconds: float) -> str:
    """`95` as `1 min 35 s`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


class Progress:
    """A progress bar on a terminal, one plain line every ten seconds elsewhere.

    >>> with Progress("scoring", total=120, unit="rows") as bar:
    ...     bar.advance(4, loss=0.31)
    """

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = self._before = done  # what an earlier process did took none of our time
        self._shown_at = -1
        self._fields = ""
        self._start = self._last_line = time.monotonic()
        self._rich = _rich_progress() if sys.stdout.isatty() else None
        self._task = self._rich.add_task(what, total=total, completed=done, fields="") if self._rich else None

    def __enter__(self) -> Self:
        if self._rich:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich:
            with nobody_listens():
                self._rich.stop()
        elif kind is None and self._shown_at != self._done and time.monotonic() - self._start > 2:
            self._plain_line()

    def advance(self, steps: int = 1, **fields: float | str) -> None:
        """Moves on by `steps` units; `fields` are shown beside the bar as given (floats in four digits)."""
        self._done += steps
        if fields:
            self._fields = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in fields.items())
        if self._rich and self._task is not None:
            rate = (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)
            self._rich.update(
                self._task, completed=self._done, fields=f"{rate:,.4g} {self._unit}/s {self._fields}".rstrip()
            )
        elif time.monotonic() - self._last_line >= _PLAIN_EVERY_SECONDS:
            self._plain_line()

    def _plain_line(self) -> None:
        now = time.monotonic()
        elapsed = max(now - self._start, 1e-9)
        self._last_line = now
        self._shown_at = self._done
        parts = [f"{self._what}: {self._done:,}"]
        if self._total:
            parts[0] += f" of {self._total:,}"
            if self._done > self._before:
                left = elapsed / (self._done - self._before) * (self._total - self._done)
                parts.append(f"{duration(left)} left" if left >= 1 else f"took {duration(elapsed)}")
        parts[0] += f" {self._unit}"
        parts.insert(1, f"{(self._done - self._before) / elapsed:,.4g} {self._unit}/s")
        if self._fields:
            parts.append(self._fields)
        say("  " + ", ".join(parts))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Heads a stage and closes it with the time that it took."""
    start = time.monotonic()
    say(f"── {name} " + "─" * max(4, 70 - len(name)))
    yield
    say(f"{name}: done in {duration(time.monotonic() - start)}")


def _rich_progress() -> RichProgress:
    # rich costs 0.1 s to import; only a terminal pays for it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console: Console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fields]}"),
        TimeRemainingColumn(),
        console=console,
    )
