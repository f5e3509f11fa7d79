"""The adapter as it was trained, on held-out rows: what everything exported is held against, by the same code."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from solotune.artifacts.measured import Artefact, Divergence
from solotune.console import Progress, counted
from solotune.dataset.contract import Message
from solotune.harness.divergence import Remembered, diverge, remember, score_and_diverge
from solotune.harness.held_out import HeldOut
from solotune.modeling import card, determinism
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.gguf_runtime import GgufSubject
from solotune.modeling.likelihood import loss, perplexity
from solotune.modeling.lora import load_adapter
from solotune.modeling.merged_model import merged_subject
from solotune.modeling.subject import Subject, TorchSubject
from solotune.modeling.template import MessageLike
from solotune.stages.export.model_card import Facts
from solotune.stages.export.tolerance import Tolerance, Trained, failures

_CLOSE_OTHERS = "Close what else uses the GPU (`nvidia-smi`; in Windows Task Manager > Performance > GPU), then again"


@dataclass(frozen=True)
class Yardstick:
    """What was measured, and what it takes to hold another model against it."""

    facts: Facts
    held_out: HeldOut
    remembered: Remembered
    trained: Trained

    @classmethod
    def measure(cls, facts: Facts, examples: int, scratch: Path) -> Yardstick:
        """Scores adapter and base model on `examples` held-out rows; `scratch` keeps the distributions.

        Raises:
            ArtifactError: the splits have changed since the training.
            DataError: there are no held-out rows.
        """
        config = facts.config
        determinism.start(config)
        card.enforce(config)
        held_out = HeldOut.of_run(facts.run_dir, facts.manifest, config, limit=examples)
        model = load_adapter(load_base_model(facts.base, config), facts.run_dir.adapter)
        subject = TorchSubject(model, held_out.encoder, config)
        remembered = remember("adapter", subject, held_out, scratch)
        with model.disable_adapter():
            with Progress("base: scoring", len(held_out), "rows") as bar:
                base = subject.score(held_out.encoded, bar.advance)
            of_base = diverge(remembered, "base", subject, held_out, base)
        del model
        subject.close()
        assert of_base.kl_mean is not None
        return cls(facts, held_out, remembered, Trained(loss(remembered.scores), loss(base), of_base.kl_mean))

    @property
    def examples(self) -> int:
        return len(self.held_out)

    @property
    def encoder(self) -> ChatEncoder:
        return self.held_out.encoder

    @property
    def of_adapter(self) -> dict[str, float]:
        """As export.json has it."""
        own = self.trained.adapter_loss
        return {"loss": own, "perplexity": _finite(perplexity(own)), "base_loss": self.trained.base_loss}

    def prompts(self) -> list[Sequence[MessageLike]]:
        """The held-out chats up to the last answer, without the texts of control tokens in what people wrote.

        A server takes such a text for the token, where the run kept it as text: that differs anyhow. The chat around it
        must not.
        """
        return [
            [
                Message(role=message.role, content=self._without_control(message.content))
                for message in row.messages[:-1]
            ]
            for row in self.held_out.rows
        ]

    def _without_control(self, content: str) -> str:
        tokens = sorted(self.encoder.control_tokens, key=len, reverse=True)
        if not any(token in content for token in tokens):
            return content
        while found := next((token for token in tokens if token in content), None):
            content = content.replace(found, "")  # what was around it may become another one
        return content.strip() or "x"

    @property
    def on_what(self) -> str:
        """The rows, for messages: three of them prove less than eighty."""
        tokens = sum(score.tokens for score in self.remembered.scores)
        return f"{counted(self.examples, 'held-out row')} ({counted(tokens, 'token')})"

    def measure_merged(self, name: str, folder: Path, tolerance: Tolerance) -> Artefact:
        """Holds a merged model against the adapter, loaded without quantisation, as it lies on the disk."""
        with merged_subject(folder, self.encoder, self.facts.config, _CLOSE_OTHERS) as subject:
            return msgspec.structs.replace(self.hold(name, subject, tolerance), computed_in=subject.computes_in)

    def measure_gguf(self, name: str, file: Path, tolerance: Tolerance) -> MeasuredGguf:
        """Holds a GGUF against the adapter, in llama.cpp."""
        subject = GgufSubject(file, self.encoder, self.facts.config)
        try:
            return MeasuredGguf(self.hold(name, subject, tolerance), subject.runs_past)
        finally:
            subject.close()

    def hold(self, name: str, subject: Subject, tolerance: Tolerance) -> Artefact:
        """Scores a model on the held-out rows and holds it against the adapter."""
        scores, divergence = score_and_diverge(self.remembered, name, subject, self.held_out)
        own = loss(scores)
        failed = failures(own, self.trained, divergence, tolerance)
        measured = {
            "loss": _finite(own),
            "perplexity": _finite(perplexity(own)),
            "adapter_loss": self.trained.adapter_loss,
            "base_loss": self.trained.base_loss,
            "base_kl": self.trained.base_kl,
            "difference": _finite(own - self.trained.adapter_loss),
        }
        return Artefact(None, {}, None, measured, tolerance, not failed, _told(divergence), failed=failed)


def _finite(value: float) -> float:
    """JSON has no word for what a broken model scores; `failed` says what it was."""
    return value if math.isfinite(value) else sys.float_info.max


def _told(found: Divergence) -> Divergence:
    changed = {
        name: None
        for name in ("max_logit_difference", "mean_logit_difference", "kl_mean", "kl_max")
        if (value := getattr(found, name)) is not None and not math.isfinite(value)
    }
    return msgspec.structs.replace(found, **changed)


class MeasuredGguf(NamedTuple):
    """A GGUF held against the adapter."""

    artefact: Artefact
    runs_past: list[str]
    """Stop tokens of the run that llama.cpp wouldn't stop at."""
