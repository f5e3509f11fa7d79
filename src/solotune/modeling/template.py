"""A chat template taken apart: which text is markup, which is content, and where the assistant speaks.

The template is rendered with a sentinel in place of each content. What lies between the sentinels is markup; the
end of the generation prompt says where the assistant's own tokens begin. A template that moves, repeats, changes
or drops contents can't be taken apart, and is refused with the reason. Stripping white space around a content is
the one change that is understood.

What a content says is never looked at. Qwen3's template does look: it takes `<think>…</think>` out of an assistant's
content and writes it again as thoughts. Here such a content stays the text that it is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from solotune.errors import ModelError

_BLANKS = ("\n\n \n\n", "  \n\n  ")
_STRIPPED: tuple[str | None, ...] = ("", None, "\n", " ")
"""What a template may strip: the argument of str.lstrip and str.rstrip. On _BLANKS no two do the same."""
_AWKWARD = (
    """ it's <b>"&amp;"</b>\r\n\u2028 {{ x }} {% y %} \\ \\n %s\n\n\u00e9 e\u0301 \U0001f3e0  """
    + "long " * 2000
    + "end"
)
"""What a template that escapes, normalises or cuts contents wouldn't write as it is."""


class MessageLike(Protocol):
    """What a message must have to be rendered."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


@dataclass(frozen=True)
class Slot:
    """The place of one message's content."""

    message: int
    left: str | None = ""
    """What the template strips before the content: nothing, these characters, or (None) any white space."""
    right: str | None = ""
    """What it strips behind it."""

    def fill(self, content: str) -> str:
        """The content as the template writes it."""
        return content.lstrip(self.left).rstrip(self.right)


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered chat: markup text, or the slot of a content."""

    text: str | Slot
    is_reply: bool
    """True from the end of the generation prompt to the end of the assistant's content."""


class ChatTemplate:
    """A Jinja chat template, rendered as transformers renders it (`transformers/utils/chat_template_utils.py`).

    One difference, on purpose: `strftime_now` isn't defined, so that a template with today's date in it (Llama 3.1)
    takes its fixed one, and a run of tomorrow sees the tokens of today.
    """

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self.source = source
        self._special_tokens = special_tokens
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"the chat template isn't valid Jinja: {error}") from error
        self._pieces = cache(self._take_apart)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Everything that decides what is rendered."""
        return json.dumps([self.source, self._special_tokens])

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        """The chat as text.

        Raises:
            ModelError: the template refuses these messages.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(m["role"] for m in messages)
            raise ModelError(f"the chat template refuses a chat of the turns {roles}: {error}") from error

    def pieces(self, roles: tuple[str, ...], *, add_generation_prompt: bool = False) -> tuple[Piece, ...]:
        """The chat of these roles as markup and slots, in order.

        Raises:
            ModelError: the template can't be taken apart for these roles.
        """
        return self._pieces(roles, add_generation_prompt)

    def _take_apart(self, roles: tuple[str, ...], add_generation_prompt: bool) -> tuple[Piece, ...]:
        messages = [{"role": role, "content": _sentinel(i)} for i, role in enumerate(roles)]
        gaps = self._gaps(messages, add_generation_prompt)
        slots = self._slots(messages, gaps, add_generation_prompt)
        pieces: list[Piece] = []
        for i, (role, before) in enumerate(zip(roles, gaps[:-1], strict=True)):
            if role == "assistant":
                # What the model is given at inference ends here; the rest of the markup is its own to say.
                prompt = self.render(messages[:i], add_generation_prompt=True)
                said = "".join(_as_text(p) for p in pieces) + before
                if not said.startswith(prompt):
                    self._refuse(f"the generation prompt isn't how the assistant's turn ({i + 1}) begins")
                own = len(said) - len(prompt)
                if own > len(before):
                    self._refuse(f"the generation prompt ends before the turn that precedes the assistant's ({i + 1})")
                pieces.append(Piece(before[: len(before) - own], is_reply=False))
                pieces.append(Piece(before[len(before) - own :], is_reply=True))
            else:
                pieces.append(Piece(before, is_reply=False))
            pieces.append(Piece(slots[i], is_reply=role == "assistant"))
        pieces.append(Piece(gaps[-1], is_reply=False))
        return tuple(p for p in pieces if p.text != "")

    def _gaps(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[str]:
        """The markup before each content, and behind the last one."""
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        gaps = []
        for i, message in enumerate(messages):
            before, found, text = text.partition(_sentinel(i))
            if not found or _sentinel(i) in text:
                self._refuse(
                    f"the {message['role']} turn ({i + 1} of {len(messages)}) is "
                    f"{'repeated' if found else 'dropped or moved'}"
                )
            gaps.append(before)
        return [*gaps, text]

    def _slots(self, messages: list[dict[str, str]], gaps: list[str], add_generation_prompt: bool) -> list[Slot]:
        """What becomes of white space around each content; refuses a template that changes what is inside one."""

        def gaps_with(left: str = "", inside: str = "", right: str = "") -> list[str]:
            changed = [{**m, "content": left + m["content"] + inside + right} for m in messages]
            return self._gaps(changed, add_generation_prompt)

        behind = list(zip(messages, gaps[1:], gaps_with(inside=_AWKWARD)[1:], strict=True))
        for i, (message, plain, probed) in enumerate(behind):
            if probed != _AWKWARD + plain:
                self._refuse(f"it changes what the {message['role']} says (turn {i + 1}): escapes, cuts or rewrites it")
        lefts, rights = [gaps_with(left=b) for b in _BLANKS], [gaps_with(right=b) for b in _BLANKS]
        slots = []
        for i, message in enumerate(messages):
            left = [probed[i].removeprefix(gaps[i]) for probed in lefts]
            right = [probed[i + 1].removesuffix(gaps[i + 1]) for probed in rights]
            stripped_left = [chars for chars in _STRIPPED if [b.lstrip(chars) for b in _BLANKS] == left]
            stripped_right = [chars for chars in _STRIPPED if [b.rstrip(chars) for b in _BLANKS] == right]
            if not (stripped_left and stripped_right):
                self._refuse(f"it changes white space around what the {message['role']} says (turn {i + 1})")
            slots.append(Slot(i, stripped_left[0], stripped_right[0]))
        return slots

    def _refuse(self, why: str) -> NoReturn:
        raise ModelError(
            f"this chat template can't be masked exactly: {why}",
            "Give a plain one with model.chat_template_path; nothing is trained on a guessed mask",
        )


def _sentinel(i: int) -> str:
    # Letters and digits only: no template strips, splits or escapes them, and no text holds them by chance.
    return f"qSlot{i}xW7kZ3vR9{i}q"


def _as_text(piece: Piece) -> str:
    return _sentinel(piece.text.message) if isinstance(piece.text, Slot) else piece.text


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


class _GenerationBlock(Extension):
    """Lets `{% generation %}` markers through; our mask doesn't need them."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    # Jinja's own filter escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
