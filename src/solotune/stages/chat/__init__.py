"""chat: base model and adapter side by side, in the terminal or from a script's standard input."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest
from solotune.config.load import load
from solotune.config.schema import RunConfig
from solotune.console import safe, say
from solotune.errors import Interrupted, ModelError
from solotune.modeling import card, determinism
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.chatting import SIDES, Chat, Sampling, Side
from solotune.modeling.lora import load_adapter
from solotune.stages.chat.opening import system_message
from solotune.stages.chat.screen import View, view

RUNS = Path("runs")
HELP = """\
/only adapter, /only base, /only both   who answers; who isn't asked doesn't hear the question
/system TEXT                            begin anew with this system message; without TEXT, with none
/reset                                  begin anew, as at the start
/quit                                   leave, as Ctrl-D does; Ctrl-C stops an answer
//TEXT                                  a message that begins with /"""


def run(wanted: str, *, temperature: float = 0.0, seed: int = 0, max_new_tokens: int | None = None) -> None:
    """Talks to a finished run until the input ends.

    Args:
        wanted: run id, unique prefix, or `latest`.
        temperature: 0 takes the likeliest token, as `evaluate` does.
        max_new_tokens: of one answer; evaluation.max_new_tokens, if not given.

    Raises:
        ArtifactError: the run isn't finished, or its base model has changed since.
        ModelError: without a terminal, where a message can't be answered; a terminal shows it and goes on.
    """
    run_dir = RunDir.find(RUNS, wanted)
    manifest, _ = run_dir.finished()
    config = load(run_dir.config_of(manifest))
    system, about = system_message(config, manifest)
    sampling = Sampling(max_new_tokens or config.evaluation.max_new_tokens, temperature, seed)
    chat = _open(run_dir, manifest, config, sampling)
    say(f"run {run_dir.run_id}: base and adapter, with the run's own chat template (/help)")
    if about:
        say(f"{about}{': ' + safe(system) if system else ''}")
    try:
        _talk(chat, view(), system)
    except Interrupted as stop:
        raise Interrupted("", stop.exit_code) from None  # nothing here is left unfinished


def _open(run_dir: RunDir, manifest: RunManifest, config: RunConfig, sampling: Sampling) -> Chat:
    determinism.start(config)
    card.enforce(config)
    base = ModelDir.of(config.model)
    base.open_as_trained(run_dir.run_id, manifest.base_model)
    encoder = ChatEncoder.open(base, str(run_dir.adapter / base.chat_template.name))
    model = load_adapter(load_base_model(base, config), run_dir.adapter)
    return Chat(model, encoder, config, sampling)


def _talk(chat: Chat, screen: View, opening: str) -> None:
    sides = SIDES
    chat.reset(opening)
    for line in screen.lines():
        text = line.strip()
        if not text:
            continue
        command, _, argument = text.partition(" ")
        if not command.startswith("/") or command.startswith("//"):
            _ask(chat, text.removeprefix("/") if command.startswith("//") else text, sides, screen)
        elif command == "/quit":
            return
        elif command == "/only" and argument in _SIDES:
            sides = _SIDES[argument]
            screen.tell(f"{' and '.join(sides)} {'answers' if len(sides) == 1 else 'answer'} from now on")
        elif command in ("/reset", "/system"):
            chat.reset(system := argument.strip() if command == "/system" else opening)
            screen.tell("a new chat, with this system message" if system else "a new chat")
        else:
            screen.tell(HELP if command == "/help" else f"no such command: {text}\n{HELP}")


_SIDES: dict[str, tuple[Side, ...]] = {"adapter": ("adapter",), "base": ("base",), "both": SIDES}


def _ask(chat: Chat, text: str, sides: Sequence[Side], screen: View) -> None:
    try:
        with closing(chat.ask(text, sides)) as answers:
            screen.show(answers)
    except ModelError as error:
        if not screen.goes_on:
            raise
        screen.tell(str(error))
    except KeyboardInterrupt:  # a second one, while the answer is printed
        if not screen.goes_on:
            raise
