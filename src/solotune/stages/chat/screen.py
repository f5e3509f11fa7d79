"""Where a chat is seen: a terminal, in which answers grow side by side, or lines of plain text.

What people and models say is data: control characters in it are shown, never obeyed.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from solotune.console import safe, say

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from solotune.modeling.chatting import Answer, Side

_NARROW = 72
"""Columns of a terminal below which the answers stand one below the other."""
_SECONDS_BETWEEN_FRAMES = 0.08
_ENDINGS = {
    "": "(stopped)",
    "stop": "",
    "max_new_tokens": "(cut here: --max-new-tokens)",
    "context": "(cut here: the model's context is full; /reset begins a new chat)",
}

Answers = Mapping["Side", "Answer"]


class View(Protocol):
    """Where lines come from and answers go."""

    goes_on: bool
    """Whether a message that can't be answered is told, and the chat goes on; scripts want an exit code."""

    def lines(self) -> Iterator[str]:
        """What somebody types, until the end of the input."""

    def show(self, answers: Iterator[Answers]) -> None:
        """Shows answers as they grow."""

    def tell(self, text: str) -> None:
        """Something about the chat, not of it."""


def view() -> View:
    """The view for where this runs: a terminal needs both ends, and a cursor that can be moved."""
    from rich.console import Console

    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)  # a terminal of another encoding sends halves of characters
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not Console().is_dumb_terminal
    return Terminal() if is_terminal else Plain()


def harmless(text: str) -> str:
    """Text of several lines without anything that a terminal would obey."""
    return "\n".join(safe(line, sys.maxsize - 1) for line in text.expandtabs(4).split("\n"))


class Plain:
    """For scripts: lines of standard input, each with its answers below it."""

    goes_on = False

    def lines(self) -> Iterator[str]:
        for line in sys.stdin:
            print(f"\n> {harmless(line.rstrip())}", flush=True)  # not `say`, which takes `invoke …` for a command
            yield line

    def show(self, answers: Iterator[Answers]) -> None:
        """One below the other, each as it grows: the second begins with what it has when the first has ended."""
        printed: dict[Side, str] = {}
        ended: set[Side] = set()
        try:
            for now in answers:
                for side, answer in now.items():
                    if side not in ended:
                        printed[side] = _print_more(side, answer, printed.get(side))
                    if not answer.ended:
                        break
                    if side not in ended:
                        print(flush=True)
                        ended.add(side)
        finally:
            if printed.keys() - ended:
                print(flush=True)

    def tell(self, text: str) -> None:
        say(harmless(text))


def _print_more(side: Side, answer: Answer, before: str | None) -> str:
    """Prints what came to an answer, its name first; returns all of it that is printed."""
    text = answer.text if answer.ended else answer.text.rstrip()  # what ends an answer may take blanks with it
    note = _ENDINGS[answer.ended] if answer.ended else ""
    body = "  " + "\n  ".join("\n".join(filter(None, [harmless(text), note])).split("\n"))
    if before is None:
        print(side)
        before = ""
    elif not body.startswith(before):
        print()
        before = ""
    print(body[len(before) :], end="", flush=True)
    return body


class Terminal:
    """For people: both answers grow at the same time, in two columns where there is room for them."""

    goes_on = True

    def __init__(self) -> None:
        from rich.console import Console

        self._console: Console = Console(highlight=False)

    def lines(self) -> Iterator[str]:
        import readline  # noqa: F401 - importing it is what gives `input` its editing

        while True:
            try:
                say()
                yield input("> ")
            except EOFError:
                say()
                return
            except KeyboardInterrupt:
                say("  (Ctrl-D leaves)")

    def show(self, answers: Iterator[Answers]) -> None:
        from rich.live import Live

        last: Answers = {}
        shown = 0.0
        try:
            # What is taller than the window can't be drawn again: only its end is, until it is printed for good.
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                for last in answers:
                    if time.monotonic() - shown >= _SECONDS_BETWEEN_FRAMES:
                        live.update(self._drawn(last, self._console.height - 3), refresh=True)
                        shown = time.monotonic()
        except KeyboardInterrupt:
            pass
        if last:
            self._console.print(self._drawn(last))

    def tell(self, text: str) -> None:
        say(harmless(text))

    def _drawn(self, answers: Answers, most: int | None = None) -> RenderableType:
        """The answers under their names; with `most`, of each the last lines that fit."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        width = self._console.width
        growing = most is not None
        if width < _NARROW or len(answers) == 1:
            rows = (most or 0) // len(answers) - 1
            return Group(
                *(
                    part
                    for side, answer in answers.items()
                    for part in (Text(side, style="bold"), self._body(answer, width, rows if growing else None))
                )
            )
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
        for side in answers:
            table.add_column(side, ratio=1, overflow="fold")
        table.add_row(*(self._body(answer, width // len(answers) - 2, most) for answer in answers.values()))
        return table

    def _body(self, answer: Answer, width: int, most: int | None) -> Text:
        from rich.text import Text

        body = Text(harmless(answer.text), overflow="fold")
        if most is None:
            if note := _ENDINGS[answer.ended]:
                body.append(f"\n{note}" if answer.text else note, style="dim")
            return body
        lines = body.wrap(self._console, width)
        return Text("\n").join(lines[-max(most, 1) :])
