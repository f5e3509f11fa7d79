"""prepare --show: one row as the model sees it, token by token, with what is trained marked."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz import process

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import SPLITS, RunConfig, Split
from solotune.console import safe, say
from solotune.dataset.contract import Row
from solotune.dataset.stored import read_rows
from solotune.errors import DataError
from solotune.modeling.chat import IGNORE, ChatEncoder

_WIDTH = 100
_TRAINED, _CONTROL, _RESET = "\x1b[1;32m", "\x1b[2;34m", "\x1b[0m"


@dataclass(frozen=True)
class Shown:
    """A token for people."""

    text: str
    is_trained: bool
    is_control: bool
    ends_line: bool


def run(config: RunConfig, row_id: str) -> None:
    """Prints the row with this id.

    Raises:
        ArtifactError: there are no splits yet, or no base model.
        DataError: no row has this id; the message names the nearest.
    """
    splits = SplitsDir(Path(config.dataset.splits_dir))
    splits.open(config.dataset)
    split, line, row = _find(splits, row_id)
    base = ModelDir.of(config.model)
    base.open()
    encoder = ChatEncoder.open(base, config.model.chat_template_path)
    encoded = encoder.encode(row.messages)
    tokens = len(encoded.input_ids)
    limit = config.training.max_length
    say(f"{safe(row.id)}: {split}, {splits.split(split)}:{line}{_known(row)}")
    share = encoded.trained_tokens / tokens
    say(
        f"{len(row.messages)} messages, {tokens:,} tokens, {encoded.trained_tokens:,} of them trained ({share:.0%})"
        + (f"; longer than training.max_length ({limit:,})" if tokens > limit else "")
    )
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    say(
        f"{_TRAINED}trained{_RESET}, {_CONTROL}control token{_RESET}; │ between tokens"
        if colour
        else "below each token: ^ trained, = control token, # both; │ between tokens"
    )
    say()
    for printed in lines(shown(encoder, encoded.input_ids, encoded.labels), colour=colour):
        say(printed)


def shown(encoder: ChatEncoder, ids: Sequence[int], labels: Sequence[int]) -> Iterator[Shown]:
    """Tokens with white space that can be seen, and nothing that a terminal would obey."""
    for token_id, label in zip(ids, labels, strict=True):
        raw = encoder.token_bytes(token_id)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = "".join(f"\\x{byte:02x}" for byte in raw)
        ends_line = text.endswith("\n")
        text = text.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
        yield Shown(safe(text, 1000), label != IGNORE, encoder.is_control(token_id), ends_line)


def lines(tokens: Iterator[Shown], *, colour: bool, width: int = _WIDTH) -> Iterator[str]:
    """Tokens side by side; without colour, marks on a second line say what each is."""
    some: list[Shown] = []
    used = 0
    for token in tokens:
        size = _columns(token.text) + 1
        if some and used + size > width:
            yield from _line(some, colour=colour)
            some, used = [], 0
        some.append(token)
        used += size
        if token.ends_line:
            yield from _line(some, colour=colour)
            some, used = [], 0
    if some:
        yield from _line(some, colour=colour)


def _line(tokens: Sequence[Shown], *, colour: bool) -> Iterator[str]:
    if colour:
        yield "│".join(_coloured(token) for token in tokens)
        return
    yield "│".join(token.text for token in tokens)
    yield " ".join(_mark(token) * _columns(token.text) for token in tokens).rstrip()


def _coloured(token: Shown) -> str:
    code = (_TRAINED if token.is_trained else "") + (_CONTROL if token.is_control and not token.is_trained else "")
    return f"{code}{token.text}{_RESET}" if code else token.text


def _mark(token: Shown) -> str:
    return {(True, True): "#", (True, False): "^", (False, True): "="}.get((token.is_trained, token.is_control), " ")


def _columns(text: str) -> int:
    """Columns of a terminal: East Asian characters take two, marks on a letter none."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


_NEAR = 70.0
"""rapidfuzz's WRatio, of 100, from which an id may have been meant."""


def _find(splits: SplitsDir, row_id: str) -> tuple[Split, int, Row]:
    ids: list[str] = []
    for split in SPLITS:
        for line, row in enumerate(read_rows(splits.split(split)), start=1):
            if row.id == row_id:
                return split, line, row
            ids.append(row.id)
    nearest = [safe(found, 60) for found, _, _ in process.extract(row_id, ids, limit=3, score_cutoff=_NEAR)]
    raise DataError(
        f"no row of {splits.path} has the id {safe(row_id, 60)}",
        (f"The nearest: {', '.join(nearest)}. " if nearest else f"Each line of {splits.split('train')} has its id. ")
        + f"Rows that were left out are in {splits.quarantine}",
    )


def _known(row: Row) -> str:
    parts = [f"source {safe(row.meta.source)}"] if row.meta.source else []
    parts += [f"tags {safe(', '.join(row.meta.tags))}"] if row.meta.tags else []
    return "".join(f"; {part}" for part in parts)
