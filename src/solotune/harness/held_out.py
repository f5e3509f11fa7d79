"""The rows that are measured, as every model sees them: the same ids, the same prompts, the template of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from random import Random

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig, Split
from solotune.dataset.contract import Row
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError
from solotune.modeling.chat import IGNORE, ChatEncoder, Encoded
from solotune.modeling.template import MessageLike
from solotune.modeling.token_cache import tokenised
from solotune.modeling.tokenised import TokenisedRows


@dataclass(frozen=True)
class HeldOut:
    """Rows of a split of a run, whole, in the order of its file."""

    split: Split
    rows: list[Row]
    encoded: TokenisedRows
    """Each row as ids, with labels on what the assistant says; never cut."""
    encoder: ChatEncoder
    """With the template that the run was trained with."""
    is_whole: bool = True
    """They are all of the split."""
    _openings: dict[tuple[str, ...], list[int]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_run(
        cls,
        run_dir: RunDir,
        manifest: RunManifest,
        config: RunConfig,
        split: Split | None = None,
        limit: int | None = None,
    ) -> HeldOut:
        """Rows of a split, after proof that it is the one that the run was made with.

        Args:
            run_dir: a finished run.
            manifest: its own.
            config: its own.
            split: another one than `evaluation.split`.
            limit: how many rows at most, from all over the split (`spread`); None: all.

        Raises:
            ArtifactError: the splits have changed since.
            DataError: the split has no rows.
        """
        split = split or config.evaluation.split
        splits = SplitsDir(Path(config.dataset.splits_dir))
        if splits.open(config.dataset).outputs != manifest.splits:
            raise ArtifactError(
                f"{splits.path} isn't what run {run_dir.run_id} was trained on",
                f"With the raw files as they were then, `invoke prepare --config {run_dir.config} --replace` makes it "
                "again; or train on what is there",
            )
        path = splits.split(split)
        if next(read_rows(path), None) is None:
            raise DataError(f"{path} is empty", f"Raise dataset.{split}_fraction, or declare rows for it")
        base = ModelDir.of(config.model)
        encoder = ChatEncoder.open(base, str(run_dir.adapter / base.chat_template.name))
        encoded = tokenised(path, lambda: (row.messages for row in read_rows(path)), encoder)
        wanted = spread(len(encoded), limit)
        rows = [row for number, row in enumerate(read_rows(path)) if number in wanted]
        left_out = dict.fromkeys(set(range(len(encoded))) - wanted, 0)
        return cls(split, rows, encoded.keep(left_out), encoder, is_whole=not left_out)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tags(self) -> dict[str, list[int]]:
        """Tag -> numbers of the rows that carry it, those of most rows first."""
        found: dict[str, list[int]] = {}
        for i, row in enumerate(self.rows):
            for tag in dict.fromkeys(row.meta.tags):
                found.setdefault(tag, []).append(i)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    def reference(self, row: int) -> str:
        """What the assistant should say last."""
        return self.rows[row].messages[-1].content

    def some(self, rows: Sequence[int]) -> HeldOut:
        """Rows of these numbers alone, in their order here."""
        wanted = set(rows)
        kept = [row for number, row in enumerate(self.rows) if number in wanted]
        others = {number: 0 for number in range(len(self)) if number not in wanted}
        return replace(self, rows=kept, encoded=self.encoded.keep(others), is_whole=self.is_whole and not others)

    def prompt(self, row: int) -> list[int]:
        """The ids before what the last answer says: those up to where the assistant has the word, and the opening."""
        return self.encoded.prompt(row) + self.opening(row)

    def opening(self, row: int) -> list[int]:
        """The ids of what the template itself writes before the last answer, where there are control tokens in it.

        Qwen3's template writes an empty block of thoughts there, and so does its generation prompt with
        `enable_thinking=False`. An adapter learns to say it, its base would think first: both are asked behind it.
        Where it is no more than a space it is left to the model: with the space before it a word is another token.
        """
        roles = tuple(message.role for message in self.rows[row].messages)
        if roles not in self._openings:
            self._openings[roles] = self._opening(roles)
        return self._openings[roles]

    def _opening(self, roles: tuple[str, ...]) -> list[int]:
        chat: list[MessageLike] = [*(_Turn(role, "x") for role in roles[:-1]), _Turn("assistant", "")]
        ids, spans = self.encoder.encode_batch([chat])[0]
        start, end = spans[-1]
        opening = ids[start : end - 1]  # without the token that ends the turn
        return opening if any(map(self.encoder.is_control, opening)) else []

    def content_of(self, row: int, answer: str) -> str:
        """A generated answer to that row without the template's own markup."""
        return self.encoder.content_of(answer, [message.role for message in self.rows[row].messages])

    def answered_with(self, row: int, contents: Sequence[str]) -> list[Encoded]:
        """The row with other last answers; labels are on what they say and the token that ends the turn alone."""
        before, opening = self.rows[row].messages[:-1], self.opening(row)
        chats: list[list[MessageLike]] = [[*before, _Turn("assistant", content)] for content in contents]
        answered = []
        for ids, spans in self.encoder.encode_batch(chats):
            start, end = spans[-1]
            start += len(opening) if ids[start : start + len(opening)] == opening else 0
            answered.append(Encoded(ids, [IGNORE] * start + ids[start:end] + [IGNORE] * (len(ids) - end)))
        return answered


def spread(rows: int, limit: int | None) -> set[int]:
    """Numbers of `limit` of so many rows, the same each time: one from each of as many equal stretches.

    The first ones of a sorted file would be of one kind; each tenth one, where kinds take turns, too. So it is drawn
    which one of a stretch.
    """
    if limit is None or limit >= rows:
        return set(range(rows))
    bounds = [i * rows // limit for i in range(limit + 1)]
    draw = Random(0)
    return {start + int(draw.random() * (end - start)) for start, end in pairwise(bounds)}


@dataclass(frozen=True)
class _Turn:
    role: str
    content: str
