"""Parquet, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from solotune.dataset.readers.source import RawRecord
from solotune.errors import DataError

_ROWS_IN_MEMORY = 1024


def read(path: Path, name: str) -> Iterator[RawRecord]:
    """Yields every row as {column: value}. Parquet has no absent keys, only nulls: a null is an absent key.

    Raises:
        DataError: not a Parquet file, or a damaged one.
    """
    # pyarrow takes a quarter of a second to import; only those who have Parquet files pay for it.
    import pyarrow as pa
    import pyarrow.parquet

    number = 0
    try:
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_IN_MEMORY):
                for values in batch.to_pylist():
                    number += 1
                    value = _without_nulls(values)
                    yield RawRecord(name, number, None, msgspec.json.encode(value, enc_hook=str), value)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        where = f" after row {number:,}" if number else ""
        raise DataError(
            f"can't read {name} as Parquet{where}: {' '.join(str(error).split())}", "Copy or write it again"
        ) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
