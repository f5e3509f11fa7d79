"""Chats to token ids and labels, without torch.

Control tokens come from the template's markup alone. All other text, contents included, goes through a copy of the
tokenizer that knows no control tokens: whatever a content holds, it stays text. That goes for `<think>` in an
assistant's content too. On rows without such text the ids equal `apply_chat_template`. A label is set on exactly what
the assistant says, and on the token that ends its turn.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from solotune.artifacts.model_dir import ModelDir
from solotune.errors import ModelError
from solotune.modeling.plain_tokenizer import is_control, without_control_tokens, without_prefix
from solotune.modeling.template import ChatTemplate, MessageLike, Slot

IGNORE = -100
"""Label of a position that isn't trained; torch.nn.CrossEntropyLoss's default `ignore_index`."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chat as the model sees it. Both lists have one entry a token; labels are not shifted."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained_tokens(self) -> int:
        return sum(label != IGNORE for label in self.labels)


class Tokens(NamedTuple):
    """A chat as ids, and where in them it is trained: a start and an end for each stretch."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def with_labels(self) -> Encoded:
        """The same with a label for each token."""
        labels = [IGNORE] * len(self.ids)
        for start, end in self.spans:
            labels[start:end] = self.ids[start:end]
        return Encoded(self.ids, labels)


class ChatEncoder:
    """Tokenizer and chat template of one base model."""

    def __init__(
        self, tokenizer: dict[str, Any], template: ChatTemplate, stop_ids: frozenset[int], pad_id: int
    ) -> None:
        self.template = template
        self.pad_id = pad_id
        self._tokenizer_text = json.dumps(tokenizer)
        self._real = Tokenizer.from_str(self._tokenizer_text)
        plain = without_control_tokens(tokenizer)
        self._plain = Tokenizer.from_str(json.dumps(plain))
        inner = without_prefix(plain)
        self._inner = self._plain if inner == plain else Tokenizer.from_str(json.dumps(inner))
        self._control = {t["content"]: t for t in tokenizer.get("added_tokens", []) if is_control(t)}
        unknown = tokenizer["model"].get("unk_token")
        self._control_ids = frozenset(int(t["id"]) for text, t in self._control.items() if text != unknown)
        # Longest first: `<|im_start|>` before a token that it begins with.
        ordered = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("(" + "|".join(map(re.escape, ordered)) + ")" if ordered else r"(?!)")
        self._stop_ids = stop_ids
        self._plan = cache(self._make_plan)

    @classmethod
    def open(cls, model: ModelDir, chat_template_path: str | None = None) -> ChatEncoder:
        """Reads tokenizer.json, the special tokens, the stop tokens and the template of a fetched base model.

        Raises:
            ModelError: a file is missing or can't be used.
        """
        tokenizer = _read_json(model.tokenizer)
        config = _read_json(model.tokenizer_config)
        generation = _read_json(model.generation_config) if model.generation_config.exists() else {}
        special = {
            k: _token_text(config[k]) for k in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(k)
        }
        ids = {token["content"]: int(token["id"]) for token in tokenizer.get("added_tokens", [])}
        stop = generation.get("eos_token_id") or []
        stop_ids = {stop} if isinstance(stop, int) else set(stop)
        if special.get("eos_token") in ids:
            stop_ids.add(ids[special["eos_token"]])
        pad = special.get("pad_token") or special.get("eos_token")
        path = Path(chat_template_path) if chat_template_path else model.chat_template
        return cls(
            tokenizer,
            ChatTemplate(_read_text(path), special),
            frozenset(stop_ids),
            ids.get(pad or "", min(stop_ids, default=0)),
        )

    @property
    def control_tokens(self) -> list[str]:
        """The texts of the tokenizer's control tokens."""
        return list(self._control)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end the assistant's turn: the model's own and the one that the template writes."""
        reply = self.encode([_Turn("user", "x"), _Turn("assistant", "y")])
        return self._stop_ids | {[label for label in reply.labels if label != IGNORE][-1]}

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that decides which ids a chat gets: tokenizer, template, the code that applies them."""
        hashed = hashlib.sha256()
        names = ("chat.py", "plain_tokenizer.py", "template.py")
        code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names]
        libraries = [importlib.metadata.version(name) for name in ("tokenizers", "jinja2")]
        for text in (self._tokenizer_text, self.template.identity, *code, *libraries):
            hashed.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        return hashed.hexdigest()

    def encode(self, messages: Sequence[MessageLike]) -> Encoded:
        """A whole chat, with labels on the assistant's tokens and its end-of-turn tokens.

        Raises:
            ModelError: the template can't be masked exactly, or refuses the order of the turns.
        """
        return self.encode_batch([messages])[0].with_labels()

    def encode_prompt(self, messages: Sequence[MessageLike]) -> list[int]:
        """A chat up to the point where the assistant has the word: the ids that `generate` starts from."""
        return self.encode_batch([messages], add_generation_prompt=True)[0].ids

    def encode_batch(
        self, chats: Sequence[Sequence[MessageLike]], *, add_generation_prompt: bool = False
    ) -> list[Tokens]:
        """Many chats at once, on all cores; what comes out doesn't depend on how many there are.

        Raises:
            ModelError: the template can't be masked exactly, or refuses the order of the turns.
        """
        plans = [self._plan(tuple([m.role for m in chat]), add_generation_prompt) for chat in chats]
        texts: list[str] = []
        inner: list[str] = []
        for chat, plan in zip(chats, plans, strict=True):
            for step in plan:
                if step.parts:
                    text = "".join([p if isinstance(p, str) else p.fill(chat[p.message].content) for p in step.parts])
                    (inner if step.goes_on else texts).append(text)
        found, found_inner = self._ids(self._plain, texts), self._ids(self._inner, inner)
        encoded = []
        for plan in plans:
            ids: list[int] = []
            spans: list[tuple[int, int]] = []
            for step in plan:
                start = len(ids)
                ids += step.ids if not step.parts else next(found_inner if step.goes_on else found)
                if step.is_trained and len(ids) > start:
                    spans.append((spans.pop()[0] if spans and spans[-1][1] == start else start, len(ids)))
            encoded.append(Tokens(ids, spans))
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to the first stop token; control tokens before it stay visible."""
        kept = []
        for i in ids:
            if i in self.stop_ids:
                break
            kept.append(i)
        return str(self._real.decode(kept, skip_special_tokens=False))

    def content_of(self, answer: str, roles: Sequence[str]) -> str:
        """A generated answer without the markup that the template puts before the content of this turn.

        Qwen3 begins an answer with an empty block of thoughts: the model learns to say it, and the content comes after.

        Args:
            answer: decoded text.
            roles: of the whole chat; the last one is the assistant's.
        """
        pieces = self.template.pieces(tuple(roles))
        last = len(roles) - 1
        slot = next(i for i, p in enumerate(pieces) if isinstance(p.text, Slot) and p.text.message == last)
        before = pieces[slot - 1]
        return answer.removeprefix(before.text) if before.is_reply and isinstance(before.text, str) else answer

    def check_against_template(self, chats: Sequence[Sequence[MessageLike]]) -> None:
        """Proves on real chats that the ids equal those of the rendered template, as transformers makes them.

        Chats with control-token text or outer white space are passed over: there the two differ on purpose.

        Raises:
            ModelError: they differ.
        """
        for chat in chats:
            if any(self._control_pattern.search(m.content) or m.content != m.content.strip() for m in chat):
                continue
            text = self.template.render([{"role": m.role, "content": m.content} for m in chat])
            expected = self._real.encode(text, add_special_tokens=False).ids
            if self.encode(chat).input_ids != expected:
                raise ModelError(
                    "this tokenizer doesn't split text at its control tokens and where answers begin, so markup and "
                    "contents would mix",
                    "This base model can't be used yet with this chat template",
                )

    def token_bytes(self, token_id: int) -> bytes:
        """The text that a token stands for; part of a character where the token is one."""
        token = str(self._real.id_to_token(token_id))
        if token in self._control:
            return token.encode()
        if self._is_byte_level:
            return bytes(_BYTE_OF[c] for c in token) if all(c in _BYTE_OF for c in token) else token.encode()
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
        return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()

    def is_control(self, token_id: int) -> bool:
        """Whether an id is a control token's."""
        return self._real.id_to_token(token_id) in self._control

    @cached_property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in self._tokenizer_text

    def _ids(self, tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
        if not texts:
            return
        with _all_cores(len(texts)):
            encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        for encoding in encodings:
            ids: list[int] = encoding.ids
            if not self._control_ids.isdisjoint(ids):
                raise ModelError(
                    "this tokenizer makes control tokens out of ordinary text even without its list of them",
                    "This base model can't be used: contents could forge turns",
                )
            yield ids

    def _make_plan(self, roles: tuple[str, ...], add_generation_prompt: bool) -> tuple[_Step, ...]:
        """How a chat of these roles becomes ids: what is always the same is encoded here, once."""
        pieces = self.template.pieces(roles, add_generation_prompt=add_generation_prompt)
        steps: list[_Step] = []
        parts: list[str | Slot] = []
        in_reply = False

        def flush() -> None:
            goes_on = bool(steps) and not steps[-1].is_control
            if any(isinstance(part, Slot) for part in parts):
                steps.append(_Step((), tuple(parts), in_reply, goes_on))
            elif text := "".join(map(str, parts)):
                ids = next(self._ids(self._inner if goes_on else self._plain, [text]))
                steps.append(_Step(tuple(ids), (), in_reply, goes_on))
            parts.clear()

        for i, piece in enumerate(pieces):
            if piece.is_reply != in_reply:
                # A token never reaches over the point where the generation prompt ends: the model couldn't say it.
                flush()
                in_reply = piece.is_reply
            if isinstance(piece.text, Slot):
                parts.append(piece.text)
                continue
            after_reply = i > 0 and pieces[i - 1].is_reply and not piece.is_reply
            if after_reply and not self._control_pattern.match(piece.text):
                raise ModelError(
                    "this chat template ends the assistant's turn with ordinary text, not with a control token",
                    "The model would not learn where to stop; give another with model.chat_template_path",
                )
            for j, part in enumerate(self._split(piece.text)):
                if j % 2 == 0:
                    parts.append(part)
                    continue
                flush()
                ends_turn = after_reply and j == 1
                steps.append(_Step((int(self._control[part]["id"]),), (), ends_turn or in_reply, is_control=True))
        flush()
        return tuple(steps)

    def _split(self, markup: str) -> list[str]:
        """Text, control token, text, …; with the white space gone that a token takes in on its left or right."""
        parts = self._control_pattern.split(markup)
        for j in range(1, len(parts), 2):
            token = self._control[parts[j]]
            if token.get("lstrip"):
                parts[j - 1] = parts[j - 1].rstrip()
            if token.get("rstrip"):
                parts[j + 1] = parts[j + 1].lstrip()
        return parts


class _Step(NamedTuple):
    """A stretch of a chat: either ids that are always the same, or parts of a text to be encoded."""

    ids: tuple[int, ...]
    parts: tuple[str | Slot, ...]
    is_trained: bool
    goes_on: bool = False
    """Text that stands behind text: a tokenizer that begins each text with a space doesn't here."""
    is_control: bool = False


@contextmanager
def _all_cores(texts: int) -> Iterator[None]:
    """Lets the tokenizer's threads work for one call; `environment.prepare_process` switches them off."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    if texts > 1:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _byte_alphabet() -> dict[str, int]:
    """Byte-level tokenizers write each byte as one printable character (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()


@dataclass(frozen=True)
class _Turn:
    role: str
    content: str


def _token_text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ModelError(f"{path} isn't valid JSON: {error}") from error
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "Check model.chat_template_path, or fetch the model again") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no text file: {error}", "Check model.chat_template_path") from error
