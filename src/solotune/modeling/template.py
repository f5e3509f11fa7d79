"""A chat template taken apart: which text is markup, which is content, and where the assistant speaks.

The template is rendered with a sentinel in place of each content. What lies between the sentinels is markup; the
end of the generation prompt says where the assistant's own tokens begin. A template that moves, repeats, changes
or drops contents can't be taken apart, and is refused with the reason.
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

    def trims(self, role: str) -> bool:
        """Whether the template strips white space around contents of this role."""
        return _trims(self, role)

    def _take_apart(self, roles: tuple[str, ...], add_generation_prompt: bool) -> tuple[Piece, ...]:
        messages = [{"role": role, "content": _sentinel(i)} for i, role in enumerate(roles)]
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        pieces: list[Piece] = []
        for i, role in enumerate(roles):
            before, found, text = text.partition(_sentinel(i))
            if not found or _sentinel(i) in text:
                self._refuse(
                    f"the {role} turn ({i + 1} of {len(roles)}) is {'repeated' if found else 'dropped or moved'}"
                )
            if role == "assistant":
                # What the model is given at inference ends here; the rest of the markup is its own to say.
                prompt = self.render(messages[:i], add_generation_prompt=True)
                said = "".join(_as_text(p) for p in pieces) + before
                if not said.startswith(prompt):
                    self._refuse(f"the generation prompt isn't how the assistant's turn ({i + 1}) begins")
                own = len(said) - len(prompt)
                pieces.append(Piece(before[: len(before) - own], is_reply=False))
                pieces.append(Piece(before[len(before) - own :], is_reply=True))
            else:
                pieces.append(Piece(before, is_reply=False))
            pieces.append(Piece(Slot(i), is_reply=role == "assistant"))
        pieces.append(Piece(text, is_reply=False))
        return tuple(p for p in pieces if p.text != "")

    def _refuse(self, why: str) -> NoReturn:
        raise ModelError(
            f"this chat template can't be masked exactly: {why}",
            "Give a plain one with model.chat_template_path; nothing is trained on a guessed mask",
        )


@cache
def _trims(template: ChatTemplate, role: str) -> bool:
    before = [{"role": "user", "content": "x"}] if role == "assistant" else []
    text = template.render([*before, {"role": role, "content": f" {_sentinel(0)} "}])
    return f" {_sentinel(0)} " not in text


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
