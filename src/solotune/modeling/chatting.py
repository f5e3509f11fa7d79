"""Base model and adapter in one chat, token by token in turn: one set of weights, the adapter switched on and off."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import peft
import torch

from solotune.config.schema import RunConfig
from solotune.errors import ModelError
from solotune.modeling.base_model import autocast
from solotune.modeling.chat import ChatEncoder

Side = Literal["base", "adapter"]
SIDES: tuple[Side, ...] = ("base", "adapter")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int
    temperature: float = 0.0
    """0: the likeliest token, always."""
    seed: int = 0


@dataclass
class Answer:
    """What a model has said so far."""

    text: str = ""
    ended: Literal["", "stop", "max_new_tokens", "context"] = ""
    """Why there comes no more: the model ended its turn, or one of two limits; empty while it speaks."""


@dataclass(frozen=True)
class Turn:
    """A message."""

    role: str
    content: str


@dataclass
class _Voice:
    """One model in the middle of its answer."""

    tokens: Iterator[int]
    roles: list[str]
    most: int
    ids: list[int] = field(default_factory=list)


class Chat:
    """A chat with both models; each remembers its own answers.

    Every message goes through the run's encoder: what somebody types never becomes a control token.
    """

    def __init__(self, model: peft.PeftModel, encoder: ChatEncoder, config: RunConfig, sampling: Sampling) -> None:
        self._model, self._encoder, self._config, self._sampling = model, encoder, config, sampling
        self._context = getattr(model.get_base_model().config.get_text_config(), "max_position_embeddings", None)
        self._asked = 0
        self.reset()

    def reset(self, system: str = "") -> None:
        """Forgets everything; `system`, where given, is what the next chat begins with."""
        opening = [Turn("system", system)] if system else []
        self._histories: dict[Side, list[Turn]] = {side: list(opening) for side in SIDES}

    def ask(self, text: str, sides: Sequence[Side] = SIDES) -> Generator[dict[Side, Answer]]:
        """Asks the models, and yields their growing answers after each token, the same objects each time.

        A caller that stops early closes the iterator: what was said until then is remembered. A model that isn't
        asked hears neither question nor answer. Both draw their tokens with the same random numbers.

        Raises:
            ModelError: the chat template refuses this chat, or a model has no room for it. Nothing is remembered.
        """
        chats = {side: [*self._histories[side], Turn("user", text)] for side in sides}
        self._asked += 1
        voices = {side: self._voice(side, chat) for side, chat in chats.items()}
        answers = {side: Answer() for side in sides}
        try:
            while any(not answer.ended for answer in answers.values()):
                for side, voice in voices.items():
                    if not answers[side].ended:
                        self._speak(side, voice, answers[side])
                yield answers
        finally:
            if any(answer.text for answer in answers.values()):
                for side, answer in answers.items():
                    self._histories[side] = [*chats[side], Turn("assistant", answer.text)]

    def _voice(self, side: Side, chat: list[Turn]) -> _Voice:
        prompt = self._encoder.encode_prompt(chat)
        room = self._context - len(prompt) if self._context else self._sampling.max_new_tokens
        if room < 1:
            raise ModelError(
                f"this chat has {len(prompt):,} tokens for {side}; the model takes {self._context:,} with an answer",
                "/reset begins a new one",
            )
        most = min(self._sampling.max_new_tokens, room)
        return _Voice(self._tokens(prompt), [*(turn.role for turn in chat), "assistant"], most)

    def _speak(self, side: Side, voice: _Voice, answer: Answer) -> None:
        with self._as(side):
            voice.ids.append(next(voice.tokens))
        text = self._encoder.content_of(self._encoder.decode(voice.ids), voice.roles)
        if voice.ids[-1] in self._encoder.stop_ids:
            answer.ended = "stop"
        elif len(voice.ids) == voice.most:
            answer.ended = "max_new_tokens" if voice.most == self._sampling.max_new_tokens else "context"
        answer.text = text if answer.ended else text.rstrip("\ufffd")  # the first bytes of a character

    def _as(self, side: Side) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self._model.disable_adapter() if side == "base" else nullcontext()
        return context

    def _tokens(self, prompt: list[int]) -> Iterator[int]:
        """The answer, without end. Each step is taken by whichever model is switched on when it is asked for."""
        generator = torch.Generator().manual_seed(self._sampling.seed + self._asked)
        ids, cache = torch.tensor([prompt], device=self._model.device), None
        while True:
            with torch.no_grad(), autocast(self._config):
                output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = self._chosen(output.logits[0, -1].float(), generator)
            yield token
            ids, cache = torch.tensor([[token]], device=ids.device), output.past_key_values

    def _chosen(self, logits: torch.Tensor, generator: torch.Generator) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.cpu() / self._sampling.temperature, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=generator))
