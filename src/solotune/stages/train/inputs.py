"""What training reads, proven to be whole and to fit together; and what becomes of rows that are too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from solotune.artifacts.files import FileRecord
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import OverflowRow, RunManifest, SplitFacts
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig, Split
from solotune.console import Progress, safe, warn
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError
from solotune.modeling.chat import ChatEncoder, Encoded
from solotune.modeling.length_policy import kept_tokens
from solotune.modeling.token_cache import tokenised
from solotune.modeling.tokenised import TokenisedRows
from solotune.modeling.trainer import make_sequences


@dataclass(frozen=True)
class Inputs:
    """What training reads."""

    base: ModelDir
    base_files: dict[str, FileRecord]
    split_files: dict[str, FileRecord]
    encoder: ChatEncoder
    train: TokenisedRows
    val: Sequence[Encoded]
    facts: dict[str, SplitFacts]
    overflow: list[OverflowRow]
    sequences: int
    """That the rows of train make, packed or not."""
    order_sha256: str
    """Of the packs: which rows are in which sequence."""


def read_inputs(config: RunConfig) -> Inputs:
    """Reads and encodes train, and val where the config evaluates on it.

    Raises:
        ArtifactError, DataError, ModelError: something is missing, damaged, or doesn't fit the config.
    """
    splits_dir = SplitsDir(Path(config.dataset.splits_dir))
    splits = splits_dir.open(config.dataset)
    base = ModelDir.of(config.model)
    model = base.open(hashes=True)
    encoder = ChatEncoder.open(base, config.model.chat_template_path)
    train, train_facts, overflow = _encode(splits_dir, splits.rows["train"], "train", encoder, config)
    if not train:
        raise DataError(f"{splits_dir.split('train')} holds no row to train on", "See the table that prepare prints")
    facts = {"train": train_facts}
    val: Sequence[Encoded] = []
    if config.training.eval_steps:
        val, facts["val"], more = _encode(splits_dir, splits.rows["val"], "val", encoder, config)
        overflow += more
    sequences = make_sequences(train, config)
    return Inputs(
        base, model.files, splits.outputs, encoder, train, val, facts, overflow, len(sequences), sequences.order_sha256
    )


def _encode(
    splits: SplitsDir, rows: int, split: Split, encoder: ChatEncoder, config: RunConfig
) -> tuple[TokenisedRows, SplitFacts, list[OverflowRow]]:
    path = splits.split(split)
    with Progress(f"encoding {split}", rows, "rows") as bar:
        encoded = tokenised(path, lambda: (row.messages for row in read_rows(path)), encoder, bar.advance)
    kept = kept_tokens(encoded, config)
    overflow = list(_overflow(path, split, encoded, kept))
    _tell_overflow(split, encoded, overflow, config)
    fitting = encoded.keep(kept)
    facts = SplitFacts(
        rows=len(fitting),
        rows_too_long=[row.id for row in overflow if row.action == "dropped"],
        tokens=fitting.tokens_in_all,
        trained_tokens=fitting.trained_tokens,
        by_length=sorted(Counter(fitting.lengths.tolist()).items()),
        rows_truncated=[row.id for row in overflow if row.action == "truncated"],
        tokens_lost=sum(row.tokens_lost for row in overflow),
    )
    return fitting, facts, overflow


def _overflow(path: Path, split: Split, encoded: TokenisedRows, kept: dict[int, int]) -> Iterator[OverflowRow]:
    """The ledger of the rows that are too long; only where there are some, the file is read for their ids."""
    if not kept:
        return
    for index, row in enumerate(read_rows(path)):
        if index in kept:
            tokens, left = int(encoded.lengths[index]), kept[index]
            lost = sum(end - max(start, left) for start, end in encoded.spans(index) if end > left)
            action: Literal["dropped", "truncated"] = "truncated" if left else "dropped"
            yield OverflowRow(split, index + 1, row.id, action, tokens, tokens - left, lost)


def _tell_overflow(split: Split, encoded: TokenisedRows, overflow: Sequence[OverflowRow], config: RunConfig) -> None:
    limit = config.training.max_length
    if overflow and config.dataset.on_overflow == "error":
        longest = max(row.tokens for row in overflow)
        raise DataError(
            f"{len(overflow)} rows of {split} are longer than training.max_length ({limit} tokens; the longest has "
            f"{longest}): {some([row.id for row in overflow])}",
            f"Set training.max_length to {-(-longest // 64) * 64}, or dataset.on_overflow to drop or truncate; "
            "nothing is cut unless you say so",
        )
    for action, words in (("dropped", "left out"), ("truncated", "cut")):
        rows = [row for row in overflow if row.action == action]
        if rows:
            lost = sum(row.tokens_lost for row in rows)
            warn(
                f"{len(rows)} rows of {split} are {words}, longer than {limit} tokens: {some([r.id for r in rows])} "
                f"({lost:,} of {encoded.tokens_in_all:,} tokens lost; overflow.jsonl lists each)"
            )


def refuse_other_inputs(run_dir: RunDir, manifest: RunManifest, config: RunConfig, inputs: Inputs) -> None:
    """Raises ArtifactError where a run that goes on would read something else than when it began."""
    changed = []
    if manifest.splits != inputs.split_files:
        changed.append(f"the splits in {config.dataset.splits_dir}")
    if manifest.base_model != inputs.base_files:
        changed.append(f"the base model in {inputs.base.path}")
    if manifest.template_sha256 != inputs.encoder.template.sha256:
        changed.append("the chat template")
    if not changed and manifest.order_sha256 != inputs.order_sha256:
        changed.append("the way in which this solotune packs rows")
    if changed:
        raise ArtifactError(
            f"run {run_dir.run_id} can't go on: {' and '.join(changed)} changed since it began",
            "Bring them back, or start a new run with `invoke train --config CONFIG`",
        )


def some(ids: Sequence[str]) -> str:
    """The first few ids, harmless for a terminal, and how many more there are."""
    shown = ", ".join(safe(i, 40) for i in ids[:5])
    return shown + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
