"""Chats to token ids and labels, without torch.

Markup goes through the real tokenizer, contents through a copy of it that knows no control tokens: whatever a content
holds, it stays text. On rows without such text the ids equal `apply_chat_template`. A label is set on exactly what the
assistant says, and on the token that ends its turn.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from solotune.artifacts.model_dir import ModelDir
from solotune.errors import ModelError
from solotune.modeling.template import ChatTemplate, MessageLike, Piece, Slot

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


class ChatEncoder:
    """Tokenizer and chat template of one base model."""

    def __init__(
        self, tokenizer: dict[str, Any], template: ChatTemplate, stop_ids: frozenset[int], pad_id: int
    ) -> None:
        self.template = template
        self.pad_id = pad_id
        self._real = Tokenizer.from_str(json.dumps(tokenizer))
        self._plain = Tokenizer.from_str(json.dumps(without_control_tokens(tokenizer)))
        self._control = {token["content"]: int(token["id"]) for token in tokenizer.get("added_tokens", [])}
        # Longest first: `<|im_start|>` before a token that it begins with.
        ordered = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("(" + "|".join(map(re.escape, ordered)) + ")" if ordered else r"(?!)")
        self._stop_ids = stop_ids

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

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end the assistant's turn: the model's own and the one that the template writes."""
        reply = self.encode([_Turn("user", "x"), _Turn("assistant", "y")])
        return self._stop_ids | {[label for label in reply.labels if label != IGNORE][-1]}

    def encode(self, messages: Sequence[MessageLike]) -> Encoded:
        """A whole chat, with labels on the assistant's tokens and its end-of-turn tokens.

        Raises:
            ModelError: the template can't be masked exactly, or refuses the order of the turns.
        """
        return self._encode(messages, add_generation_prompt=False)

    def encode_prompt(self, messages: Sequence[MessageLike]) -> list[int]:
        """A chat up to the point where the assistant has the word: the ids that `generate` starts from."""
        return self._encode(messages, add_generation_prompt=True).input_ids

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
        slot = next(i for i, piece in enumerate(pieces) if piece.text == Slot(len(roles) - 1))
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
                    "this tokenizer doesn't split text at its control tokens, so markup and contents would mix",
                    "This base model can't be used yet",
                )

    def _encode(self, messages: Sequence[MessageLike], *, add_generation_prompt: bool) -> Encoded:
        pieces = self.template.pieces(tuple(m.role for m in messages), add_generation_prompt=add_generation_prompt)
        ids: list[int] = []
        labels: list[int] = []
        text, in_reply = "", False

        def flush() -> None:
            nonlocal text
            if text:
                found = self._plain.encode(text, add_special_tokens=False).ids
                ids.extend(found)
                labels.extend(found if in_reply else [IGNORE] * len(found))
                text = ""

        for i, piece in enumerate(pieces):
            if piece.is_reply != in_reply:
                # A token never reaches over the point where the generation prompt ends: the model couldn't say it.
                flush()
                in_reply = piece.is_reply
            if isinstance(piece.text, Slot):
                message = messages[piece.text.message]
                text += message.content.strip() if self.template.trims(message.role) else message.content
                continue
            after_reply = i > 0 and pieces[i - 1].is_reply and not piece.is_reply
            for j, part in enumerate(self._control_pattern.split(piece.text)):
                if j % 2 == 0:
                    text += part
                    continue
                flush()
                ids.append(self._control[part])
                ends_turn = after_reply and j == 1 and piece.text.startswith(part)
                labels.append(ids[-1] if ends_turn or in_reply else IGNORE)
            if after_reply and not self._begins_with_control(piece):
                raise ModelError(
                    "this chat template ends the assistant's turn with ordinary text, not with a control token",
                    "The model would not learn where to stop; give another with model.chat_template_path",
                )
        flush()
        return Encoded(ids, labels)

    def _begins_with_control(self, piece: Piece) -> bool:
        return isinstance(piece.text, str) and self._control_pattern.match(piece.text) is not None


def without_control_tokens(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json that can't emit an added token, whatever text it is given.

    The added tokens go, and so do their entries in the vocabulary: a byte-pair model that looks words up whole
    (`ignore_merges`) would find them there.
    """
    plain = copy.deepcopy(tokenizer)
    added = {token["content"] for token in plain.get("added_tokens", [])}
    plain["added_tokens"] = []
    plain["post_processor"] = None
    plain["truncation"] = plain["padding"] = None
    model = plain["model"]
    if isinstance(model.get("vocab"), dict):
        unknown = model.get("unk_token")
        model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in added or token == unknown}
    _keep_inner_spaces(plain.get("pre_tokenizer"))
    return plain


def _keep_inner_spaces(pre_tokenizer: dict[str, Any] | None) -> None:
    # SentencePiece's "first" puts a space before the first word of a text. Our texts stand behind markup: never first.
    for part in [pre_tokenizer or {}, *(pre_tokenizer or {}).get("pretokenizers", [])]:
        if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"


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
