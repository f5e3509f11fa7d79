"""A GGUF file measured in llama.cpp, like any other model; and what llama.cpp's server makes of chats.

The token ids that go in are the `ChatEncoder`'s, so two models differ by their weights alone. What the file's own
tokenizer and template make of the same chats is another question, which `serving_mismatches` answers.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from solotune.config.schema import RunConfig
from solotune.console import safe
from solotune.errors import MachineError
from solotune.modeling import llama_cpp, llama_programs
from solotune.modeling.chat import IGNORE, ChatEncoder, Encoded
from solotune.modeling.generate import Said
from solotune.modeling.likelihood import RowScore
from solotune.modeling.template import MessageLike


def runtime_version() -> str:
    """`xllamacpp 2026.10.11549`: its last part is llama.cpp's build.

    Raises:
        MachineError: it isn't installed.
    """
    _installed()
    return f"xllamacpp {importlib.metadata.version('xllamacpp')}"


class GgufSubject:
    """A GGUF file as the harness's `Subject`, on the CPU, with as many threads as torch has.

    Rows are scored one by one, so a row's figures depend on nothing but itself: the same file, row, thread count and
    processor give the same bits. Answers are generated `evaluation.batch_size` at a time, as elsewhere; another batch
    may turn a tie the other way. Keys and values are kept in 16 bits, llama.cpp's default, as they are where it serves.

    Quantised weights are multiplied with activations rounded to 8 bits, as llama.cpp does on a CPU: for SmolLM2-135M as
    q8_0 that is most of a KL of 0.006 nats a token, the weights alone are 0.002; f16 is 3e-6 from float32.

    Args:
        path: the file; it is memory-mapped.
        encoder: of the run.
        config: says how long answers may be and how many are made at once.

    Raises:
        MachineError: xllamacpp isn't there, or is a version that isn't known.
        ModelError: llama.cpp can't load the file.
    """

    def __init__(self, path: Path, encoder: ChatEncoder, config: RunConfig) -> None:
        self._model = llama_cpp.Model(path)
        self._encoder = encoder
        self._config = config

    @property
    def runs_past(self) -> list[str]:
        """Stop tokens of the run that llama.cpp would not stop at."""
        ids = sorted(i for i in self._encoder.stop_ids if not self._model.ends_turn(i))
        return [self._encoder.token_bytes(i).decode(errors="replace") for i in ids]

    def score(self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = lambda _: None) -> list[RowScore]:
        """See `Subject.score`; exact, over the whole vocabulary.

        Raises:
            ModelError: llama.cpp failed.
        """
        scores = []
        for score, _ in self.read(rows, [()] * len(rows)):
            scores.append(score)
            on_rows(1)
        return scores

    def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
        """See `Subject.log_probabilities`.

        Raises:
            ModelError: llama.cpp failed.
        """
        for _, found in self.read(rows, [range(len(_targets(row))) for row in rows]):
            yield found

    def read(self, rows: Sequence[Encoded], labels: Sequence[Sequence[int]]) -> Iterator[tuple[RowScore, torch.Tensor]]:
        """See `ReadsOnce.read`; of the other labels no distribution is kept.

        Raises:
            ModelError: llama.cpp failed.
        """
        with self._context_for(rows) as context:
            for row, wanted in zip(rows, labels, strict=True):
                targets = _targets(row)
                nll, greedy = torch.empty(len(targets)), torch.empty(len(targets), dtype=torch.int32)
                keep = torch.zeros(len(targets), dtype=torch.bool)
                keep[list(wanted)] = True
                kept = [torch.empty(0, self._model.vocabulary)]
                done = 0
                for found in self._at_labels(context, row):
                    here = slice(done, done := done + len(found))
                    nll[here] = -found.gather(1, targets[here, None]).squeeze(1)
                    greedy[here] = found.argmax(1)
                    kept.append(found[keep[here]])
                total = float(nll.double().sum())
                score = RowScore(total, len(targets), token_nll=nll.numpy(), greedy=greedy.numpy())
                yield score, torch.cat(kept)

    def answer(self, prompts: Sequence[list[int]], on_rows: Callable[[int], None] = lambda _: None) -> list[Said]:
        """See `Subject.answer`.

        Raises:
            ModelError: llama.cpp failed.
        """
        if not prompts:
            return []
        together = min(self._config.evaluation.batch_size, len(prompts))
        room = max(map(len, prompts)) + self._config.evaluation.max_new_tokens
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Said] = {}
        with self._context(room, together) as context:
            for start in range(0, len(by_length), together):
                numbers = by_length[start : start + together]
                context.forget()
                for i, ids in zip(numbers, self._continued(context, [prompts[i] for i in numbers]), strict=True):
                    answers[i] = Said.of(ids, self._encoder)
                on_rows(len(numbers))
        return [answers[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Gives the file's memory back."""
        self._model.close()

    def _context(self, tokens: int, sequences: int = 1) -> llama_cpp.Context:
        return self._model.context(tokens, sequences, torch.get_num_threads())

    def _context_for(self, rows: Sequence[Encoded]) -> llama_cpp.Context:
        return self._context(max((len(row.input_ids) for row in rows), default=1))

    @staticmethod
    def _at_labels(context: llama_cpp.Context, row: Encoded) -> Iterator[torch.Tensor]:
        """(some labels, vocabulary) float32 log-probabilities, until all labels of the row have had theirs."""
        context.forget()
        ids = row.input_ids[:-1]  # the last token predicts nothing that is in the row
        wanted = [label != IGNORE for label in row.labels[1:]]
        for start in range(0, len(ids), llama_cpp.BATCH):
            some = ids[start : start + llama_cpp.BATCH]
            positions = range(start, start + len(some))
            logits = context.decode(some, positions, [0] * len(some), wanted[start : start + len(some)])
            yield torch.log_softmax(torch.from_numpy(logits), 1)

    def _continued(self, context: llama_cpp.Context, prompts: Sequence[list[int]]) -> list[list[int]]:
        """The likeliest continuation of each prompt, up to and with the stop token."""
        said = [[self._likeliest(context, prompt, sequence)] for sequence, prompt in enumerate(prompts)]
        for _ in range(self._config.evaluation.max_new_tokens - 1):
            going = [i for i, ids in enumerate(said) if ids[-1] not in self._encoder.stop_ids]
            if not going:
                break
            positions = [len(prompts[i]) + len(said[i]) - 1 for i in going]
            logits = context.decode([said[i][-1] for i in going], positions, going, [True] * len(going))
            for i, token in zip(going, logits.argmax(1), strict=True):
                said[i].append(int(token))
        return said

    @staticmethod
    def _likeliest(context: llama_cpp.Context, prompt: list[int], sequence: int) -> int:
        """Reads a prompt; returns the token that the model finds likeliest behind it."""
        for start in range(0, len(prompt), llama_cpp.BATCH):
            ids = prompt[start : start + llama_cpp.BATCH]
            is_last = start + len(ids) == len(prompt)
            wanted = [False] * (len(ids) - 1) + [is_last]
            logits = context.decode(ids, range(start, start + len(ids)), [sequence] * len(ids), wanted)
        return int(np.argmax(logits[0]))


def _targets(row: Encoded) -> torch.Tensor:
    """(labels,) int64: the tokens of the row that are scored."""
    return torch.tensor([label for label in row.labels[1:] if label != IGNORE], dtype=torch.int64)


@dataclass(frozen=True)
class ServingMismatches:
    """Chats that llama.cpp's server would give to the model otherwise than it was trained, by their number."""

    template: list[int]
    """The template that is in the file renders to another text there."""
    tokens: list[int]
    """Other token ids, from its rendering and the file's own tokenizer; without those of `template`."""
    reason: str = ""
    """Why llama.cpp's server can't start on this file, or can't render the first chat that it fails on."""


def serving_mismatches(path: Path, encoder: ChatEncoder, chats: Sequence[Sequence[MessageLike]]) -> ServingMismatches:
    """Holds what llama.cpp's server makes of chats against what the run made of them.

    A content that holds the text of a control token is always among `tokens`: the server takes it for the token.

    Args:
        path: a GGUF file.
        encoder: of the run.
        chats: each up to where the assistant has the word.

    Raises:
        MachineError: xllamacpp isn't installed.
    """
    _installed()
    messages = [[{"role": m.role, "content": m.content} for m in chat] for chat in chats]
    asked = json.dumps({"path": str(path), "chats": messages})
    done = llama_programs.run(llama_programs.command("serving"), asked, seconds=600)
    if done.returncode:
        return ServingMismatches(list(range(len(chats))), [], _reason(done.stderr) or f"exit code {done.returncode}")
    served = json.loads(done.stdout.splitlines()[-1])
    template: list[int] = []
    tokens: list[int] = []
    reasons: list[str] = []
    for i, (chat, got) in enumerate(zip(messages, served, strict=True)):
        expected = encoder.template.render(chat, add_generation_prompt=True)
        if "error" in got:
            reasons.append(safe(str(got["error"]), 400))
        if got.get("tokens") == encoder.encode_prompt(chats[i]):
            continue
        # Where the tokenizer puts the first token, the server takes it off the rendered text.
        rendered = [first + got.get("prompt", "") for first in ("", *encoder.control_tokens)]
        (tokens if expected in rendered else template).append(i)
    return ServingMismatches(template, tokens, reasons[0] if reasons else "")


def _reason(log: str) -> str:
    """What the server's log gives as the cause: what its template engine says, else the first line of severity E."""
    found = re.search(r"^Error: (.+)", log, re.MULTILINE) or re.search(r"^\S+ E \S+[^:]*: (.+)", log, re.MULTILINE)
    return safe(found[1], 400) if found else ""


def _installed() -> None:
    if find_spec("xllamacpp") is None:
        raise MachineError("xllamacpp, which runs GGUF files, isn't installed", llama_cpp.INSTALL)
