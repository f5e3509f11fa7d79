"""Talking to a run: from a script, and in a real terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.helpers import chat

from solotune import cli
from solotune.artifacts.files import FileRecord, write_json
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.load import load
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.chatting import Answer, Chat, Side
from solotune.modeling.generate import generate
from solotune.modeling.lora import load_adapter
from solotune.stages.chat.screen import Plain, Terminal, harmless

SYSTEMS = [
    (["Be kind\x1b[2J"], "/system alone begins without it: Be kind\\x1b[2J"),
    (["Be kind", "Be brief"], "have a system message; this chat begins without one"),
    (["", "Be brief"], "have a system message; this chat begins without one"),
    ([""], ""),
]


def talk(monkeypatch: pytest.MonkeyPatch, *lines: str, **flags: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    given = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    return cli.main(["chat", "--run", "latest", *given])


def test_a_script_gets_what_evaluate_would_measure(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(monkeypatch, "light in the hall", "", "/only adapter", "and off", "/quit", "never read") == 0
    config = load(finished_run / "config.yaml")
    base = ModelDir.of(config.model)
    encoder = ChatEncoder.open(base, str(finished_run / "adapter" / "chat_template.jinja"))
    model = load_adapter(load_base_model(base, config), finished_run / "adapter")

    def answer(*contents: str) -> str:
        return generate(model, [encoder.encode_prompt(chat(*contents))], encoder, config)[0]

    first = answer("light in the hall")
    second = answer("light in the hall", first, "and off")
    with model.disable_adapter():
        of_base = answer("light in the hall")
    out = capsys.readouterr().out
    shown = [line.strip() for line in out.split("\n> ")[1].splitlines()]
    assert shown[0] == "light in the hall"
    assert shown[shown.index("base") + 1] == harmless(of_base)
    assert shown[shown.index("adapter") + 1] == harmless(first)
    assert f"> and off\nadapter\n  {harmless(second)}\n" in out
    assert "never read" not in out


def test_commands_begin_with_a_slash_and_messages_may(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["/only base", "//etc", "/system Be kind", "/reset", "/only nobody", "/help"]
    assert talk(monkeypatch, *lines, max_new_tokens="2") == 0
    out = capsys.readouterr().out
    assert "base answers from now on" in out
    assert out.count("\nbase\n") == 1, "only //etc is a message"
    assert "a new chat, with this system message\n" in out
    assert "no such command: /only nobody\n" in out
    assert out.count("/quit ") == 2


@pytest.mark.parametrize(("systems", "told"), SYSTEMS)
def test_a_chat_begins_as_the_rows_did(
    systems: list[str],
    told: str,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whoever talks to a new adapter types what the user said in the rows, and not the system message before it."""
    config = load(finished_run / "config.yaml")
    splits = SplitsDir(Path(config.dataset.splits_dir))
    lines = [json.loads(line) for line in splits.split("train").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(lines):
        if system := systems[number % len(systems)]:
            row["messages"].insert(0, {"role": "system", "content": system})
    rows = "".join(json.dumps(row) + "\n" for row in lines)
    splits.split("train").write_text(rows, encoding="utf-8")
    outputs = {**splits.manifest().outputs, "train.jsonl": FileRecord.of(splits.split("train"))}
    write_json(splits.path / "manifest.json", msgspec.structs.replace(splits.manifest(), outputs=outputs))
    run = RunDir(finished_run)
    run.write_manifest(msgspec.structs.replace(run.manifest(), splits=outputs))
    began: list[str] = []
    monkeypatch.setattr(Chat, "reset", lambda self, system="": began.append(system))
    assert talk(monkeypatch, "/reset", "/system", "/quit") == 0
    opening = systems[0] if len(systems) == 1 else ""
    assert began[-3:] == [opening, opening, ""]
    assert told in (out := capsys.readouterr().out)
    assert bool(told) == ("rows it was trained on" in out)


@pytest.mark.parametrize("how", ["gone", "changed", "of another run", "unreadable"])
def test_without_the_rows_of_then_a_chat_says_that_it_may_lack_their_beginning(
    how: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = SplitsDir(Path(load(finished_run / "config.yaml").dataset.splits_dir))
    if how == "gone":
        shutil.rmtree(splits.path)
    elif how == "changed":
        text = splits.split("train").read_text(encoding="utf-8")
        splits.split("train").write_text(text.replace("a", "b"), encoding="utf-8")
    elif how == "of another run":
        run = RunDir(finished_run)
        run.write_manifest(msgspec.structs.replace(run.manifest(), splits={}))
    else:
        splits.split("train").unlink()
        splits.split("train").symlink_to(splits.split("train").name)
    assert talk(monkeypatch, "/quit") == 0
    assert f"{splits.path} isn't what it was trained on" in capsys.readouterr().out


def test_a_question_that_cant_be_answered_ends_a_script_with_its_reason(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(monkeypatch, "x" * 600) == 2
    assert "the model takes 512 with an answer. /reset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"), [("temperature", "-1"), ("temperature", "nan"), ("max_new_tokens", "0"), ("seed", "x")]
)
def test_wrong_numbers_are_refused(flag: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as left:
        talk(monkeypatch, **{flag: value})
    assert left.value.code == 2


def test_another_base_model_than_the_one_trained_on_is_refused(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(finished_run)
    manifest = run_dir.manifest()
    record = manifest.base_model.pop("config.json")
    assert record
    run_dir.write_manifest(manifest)
    assert talk(monkeypatch, "hi") == 2
    assert "isn't the one that run" in capsys.readouterr().err


def test_a_script_sees_an_answer_grow(capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = Answer(), Answer()
    seen = []

    def answers() -> Iterator[dict[Side, Answer]]:
        for text, other, ended in (
            ("", "x", ""),
            ("To", "x y", ""),
            ("To ", "x y", ""),
            ("To\n\nkyo", "x y z", "stop"),
        ):
            base.text, adapter.text, base.ended = text, other, ended  # type: ignore[assignment]
            yield {"base": base, "adapter": adapter}
            seen.append(capsys.readouterr().out)
        adapter.text, adapter.ended = "x y z \n", "max_new_tokens"
        yield {"base": base, "adapter": adapter}
        seen.append(capsys.readouterr().out)

    Plain().show(answers())
    cut = " \n  \n  (cut here: --max-new-tokens)\n"
    assert seen == ["base\n  ", "To", "", "\n  \n  kyo\nadapter\n  x y z", cut]


def test_a_piped_question_without_an_end_of_line_is_answered_and_ends_the_chat(finished_run: Path) -> None:
    command = [sys.executable, "-P", "-m", "solotune", "chat", "--run", "latest", "--max-new-tokens", "3"]
    done = subprocess.run(command, input="light in the hall\nand off", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nadapter\n") == 2
    assert "\n> and off\nbase\n" in done.stdout


def test_control_characters_are_shown_and_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b]0;title\x07 \x1b[2J\r\u202egnp\n\tinvoke train"
    monkeypatch.setattr(sys, "stdin", io.StringIO(hostile.splitlines()[0] + "\n"))
    assert len(list(Plain().lines())) == 1
    Plain().show(iter([{"adapter": Answer(hostile, "stop")}]))
    monkeypatch.setenv("SOLOTUNE_COMMAND", "other")
    screen = Terminal()
    screen.show(iter([{"base": Answer(hostile), "adapter": Answer(hostile, "stop")}]))
    out = capsys.readouterr().out
    assert not any(c in out for c in "\x1b\x07\r\u202e")
    assert out.count(r"\x1b]0;title\x07") == 4
    assert out.count("invoke train") == 3, "what a model says isn't taken for a command of ours"


@pytest.mark.parametrize(("columns", "side_by_side"), [(100, True), (60, False)])
def test_answers_stand_side_by_side_where_there_is_room(
    columns: int, side_by_side: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    Terminal().show(iter([{"base": Answer("left\n" * 50, "stop"), "adapter": Answer("right", "max_new_tokens")}]))
    lines = capsys.readouterr().out.splitlines()
    assert any("left" in line and "right" in line for line in lines) is side_by_side
    assert sum("left" in line for line in lines) == 50, "all of it is printed, though the window is lower"
    assert any("(cut here: --max-new-tokens)" in line for line in lines)


class Session:
    """`solotune chat` in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "SOLOTUNE_COMMAND": "invoke", "INPUTRC": "/dev/null"}
            os.execv(sys.executable, [sys.executable, "-m", "solotune", "chat", "--run", "latest", *arguments])
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.text = ""

    def type(self, keys: str, then: str) -> str:
        """What the terminal shows after these keys, up to `then`."""
        os.write(self._terminal, keys.encode())
        return self.read(then)

    def read(self, then: str) -> str:
        deadline, seen = time.monotonic() + 120, ""
        while then not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([self._terminal], [], [], 0.2)[0]:
                try:
                    seen += os.read(self._terminal, 65_536).decode(errors="replace")
                except OSError:  # as Linux tells that the other end is closed
                    assert not then, seen
                    return seen
        return seen

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def session(finished_run: Path) -> Iterator[Session]:
    session = Session("--max-new-tokens", "400")
    yield session
    try:
        os.kill(session.pid, signal.SIGKILL)
        os.waitpid(session.pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(session: Session) -> None:
    session.read("\n> ")
    session.type("light in the hall\r", "adapter")  # both have begun
    stopped = session.type("\x03", "\n> ")
    assert "(stopped)" in stopped
    session.type("half a line", "half a line")
    time.sleep(0.5)  # Python loses a Ctrl-C that comes in the moment before it waits for the next key
    assert "Ctrl-D leaves" in session.type("\x03", "\n> ")
    assert "/reset begins a new one" in session.type("x" * 600 + "\r", "\n> "), "told, and the chat goes on"
    assert "answers from now on" in session.type("/only base\r", "\n> ")
    session.type("\x04", "")
    assert session.end() == 0
