"""An Ollama Modelfile for a GGUF: the run's chat template in Go's language, and the tokens that end an answer.

Without a TEMPLATE, Ollama compares the Jinja template in the file with those that it knows, by edit distance, and takes
the nearest (`template/template.go`, `server/model.go` in ollama/ollama); what is far from all of them gets no markup
at all in older versions. So one is always given where Go's language can say what the Jinja template does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from solotune.errors import ModelError
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.template import ChatTemplate, Slot

_CHATS = (
    ("user",),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user"),
    ("system", "user"),
    ("system", "user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


@dataclass(frozen=True)
class Markup:
    """A chat template whose markup around a message depends on its role alone."""

    head: str
    """Before a chat that has no system message."""
    before: dict[str, str]
    """Role -> markup before such a message's content."""
    after: dict[str, str]
    answer: str
    """Behind the last message: the assistant's turn begins."""
    strips: bool
    """White space around a content is taken away, which Go's language can't say."""

    @property
    def takes_system(self) -> bool:
        return "system" in self.before

    def gaps(self, roles: Sequence[str]) -> list[str]:
        """The markup before each content of a chat, and behind the last one."""
        head = "" if roles[0] == "system" else self.head
        inner = [self.after[one] + self.before[two] for one, two in pairwise(roles)]
        return [head + self.before[roles[0]], *inner, self.after[roles[-1]] + self.answer]


def modelfile(gguf: Path, encoder: ChatEncoder) -> str:
    """The text of a Modelfile that lies beside `gguf`."""
    lines = [f"# ollama create NAME -f Modelfile{_NL}FROM ./{gguf.name}"]
    markup = markup_of(encoder.template)
    template = markup and go_template(markup, automatic_bos(gguf))
    if markup is None or template is None:
        lines.append(_NO_TEMPLATE)
    else:
        lines += (
            []
            if not markup.strips
            else ["# The model's own template strips white space around a content; this one can't."]
        )
        lines += [] if markup.takes_system else ["# The model's template knows no system message; one is left out."]
        lines.append(f'TEMPLATE """{template}"""')
    stops = sorted(encoder.token_bytes(i).decode("utf-8", "replace") for i in encoder.stop_ids)
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return _NL.join(lines) + _NL


_NL = "\n"
_NO_TEMPLATE = (
    "# No TEMPLATE: Go's language can't say what this model's Jinja template does. Recent versions of Ollama take the\n"
    "# one in the GGUF; older ones would send messages without markup: serve it with `llama-server --jinja` then."
)


def markup_of(template: ChatTemplate) -> Markup | None:
    """The template as markup by role, proven on chats of one to three rounds; None where it is more than that."""
    try:
        (_, after_user), slots = _gaps(template, ("user",), answering=False)
        start, to_assistant, to_user, to_answer = _gaps(template, ("user", "assistant", "user"))[0]
    except ModelError:
        return None
    try:
        systems = _gaps(template, ("system", "user"))[0][:2]
    except ModelError:
        systems = []
    before_user = _common_suffix([start, to_user, *systems[1:]])
    before = {"user": before_user, "assistant": to_assistant.removeprefix(after_user)}
    after = {"user": after_user, "assistant": to_user.removesuffix(before_user)}
    if systems:
        before["system"], after["system"] = systems[0], systems[1].removesuffix(before_user)
    strips = any(slot.left != "" or slot.right != "" for slot in slots)
    markup = Markup(start.removesuffix(before_user), before, after, to_answer.removeprefix(after_user), strips)
    for roles in _CHATS:
        if "system" not in roles or markup.takes_system:
            try:
                if _gaps(template, roles)[0] != markup.gaps(roles):
                    return None
            except ModelError:
                return None
    return markup


def go_template(markup: Markup, bos: str = "") -> str | None:
    """The same in the language of Go's text/template; None where a Modelfile can't hold it.

    Args:
        markup: by role.
        bos: the text of a token that the runtime puts first by itself, or nothing.
    """
    head, first = markup.head.removeprefix(bos), markup.before.get("system", "").removeprefix(bos)
    texts = [head, first, *markup.before.values(), *markup.after.values(), markup.answer]
    if any('"""' in text or not text.replace("\n", "").replace("\t", "").isprintable() for text in texts):
        return None  # a Modelfile has no way to escape three quotes, and its reader drops what isn't printable

    def message(role: str) -> str:
        before = first if role == "system" else markup.before[role]
        return f'if eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{_literal(markup.after[role])}'

    roles = [role for role in ("system", "user", "assistant") if role in markup.before]
    opening = (
        f"{{{{ if not .System }}}}{_literal(head)}{{{{ end }}}}" if markup.takes_system and head else _literal(head)
    )
    branches = "{{ else ".join(message(role) for role in roles)
    return f"{opening}{{{{ range .Messages }}}}{{{{ {branches}{{{{ end }}}}{{{{ end }}}}{_literal(markup.answer)}"


def automatic_bos(gguf: Path) -> str:
    """The text of the token that llama.cpp puts before every prompt of this file; empty where it puts none."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields

    def value(key: str) -> object:
        field = fields.get(f"tokenizer.ggml.{key}")
        return None if field is None else field.contents()

    adds, token = value("add_bos_token"), value("bos_token_id")
    if adds is None:  # llama.cpp's own rule then (`src/llama-vocab.cpp`)
        adds = value("model") == "llama" or value("pre") in ("llama3", "llama-v3", "llama-bpe")
    if not adds or not isinstance(token, int):
        return ""
    return str(fields["tokenizer.ggml.tokens"].contents(token))


def _gaps(template: ChatTemplate, roles: tuple[str, ...], *, answering: bool = True) -> tuple[list[str], list[Slot]]:
    """Markup before each content and behind the last one, with the assistant's turn begun; and the contents' slots."""
    gaps: list[str] = [""]
    slots: list[Slot] = []
    for piece in template.pieces(roles, add_generation_prompt=answering):
        if isinstance(piece.text, Slot):
            slots.append(piece.text)
            gaps.append("")
        else:
            gaps[-1] += piece.text
    return gaps, slots


def _common_suffix(texts: Sequence[str]) -> str:
    shortest = min(texts, key=len)
    return next(shortest[i:] for i in range(len(shortest) + 1) if all(t.endswith(shortest[i:]) for t in texts))


def _literal(text: str) -> str:
    """Text that stays text in a Go template."""
    return text.replace("{{", '{{ "{{" }}')
