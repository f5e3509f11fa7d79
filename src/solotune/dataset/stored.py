"""Rows of a split file, as `prepare` wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from solotune.dataset.contract import Row
from solotune.errors import ArtifactError


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of train.jsonl, val.jsonl or test.jsonl, in order.

    Raises:
        ArtifactError: a line isn't a row; prepare writes none such.
    """
    decoder = msgspec.json.Decoder(Row)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ArtifactError(
                    f"{path}:{number} isn't a row: {error}", "Run `invoke prepare --config CONFIG --replace`"
                ) from error
