"""Parquet, some rows at a time. A row becomes Python values only after its size is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from solotune.dataset.readers.parquet_batches import BYTES_OF_A_VALUE, batches, parts_of, size_of
from solotune.dataset.readers.source import (
    KEPT_OF_LONG_LINE,
    MAX_LINE_BYTES,
    RawRecord,
    TableRow,
    UnpackedLimit,
    too_long,
)
from solotune.dataset.reasons import RowProblem
from solotune.errors import DataError

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch, Scalar


def read(path: Path, name: str) -> Iterator[RawRecord]:
    """Yields every row as {column: value}. Parquet has no absent keys, only nulls: a null is an absent key.

    Raises:
        DataError: not a Parquet file, a damaged one, one that unpacks to too much, or one with a column twice.
    """
    # pyarrow takes a quarter of a second to import; only those who have Parquet files pay for it.
    import pyarrow as pa

    number, limit = 0, UnpackedLimit(path)
    try:
        for batch in batches(path, name):
            size = size_of(batch)
            limit.add(size)
            for record in _records(batch, size, name, number + 1):
                number += 1
                yield record
    except (pa.ArrowException, UnicodeDecodeError) as error:
        where = f" after row {number:,}" if number else ""
        raise DataError(
            f"can't read {name} as Parquet{where}: {' '.join(str(error).split())}", "Copy or write it again"
        ) from error


def _records(batch: RecordBatch, size: int, name: str, first: int) -> Iterator[RawRecord]:
    if size <= MAX_LINE_BYTES:
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError):
            pass  # of one row, which is found below
        else:
            for number, values in enumerate(rows, first):
                yield _record(name, number, values)
            return
    for i in range(len(batch)):
        yield _record_alone(name, first + i, batch.slice(i, 1))


def _record(name: str, number: int, values: dict[str, Any]) -> RawRecord:
    value = _without_nulls(values)
    raw = msgspec.json.encode(value, enc_hook=str)
    if len(raw) > MAX_LINE_BYTES:
        return RawRecord(name, number, None, raw[:KEPT_OF_LONG_LINE], problem=too_long(len(raw), "row"))
    return RawRecord(name, number, None, raw, TableRow(value))


def _record_alone(name: str, number: int, row: RecordBatch) -> RawRecord:
    size = size_of(row)
    if size > MAX_LINE_BYTES:
        problem = too_long(size, "row")
    else:
        try:
            return _record(name, number, row.to_pylist()[0])
        except (ValueError, OverflowError):
            problem = _unusable(row)
    made = _Excerpt(KEPT_OF_LONG_LINE if size > MAX_LINE_BYTES else MAX_LINE_BYTES)
    values = {key: made.of(column[0]) for key, column in parts_of(row)}
    raw = msgspec.json.encode(_without_nulls(values), enc_hook=str)
    if max(size, len(raw)) > MAX_LINE_BYTES:
        raw = raw[:KEPT_OF_LONG_LINE]
    return RawRecord(name, number, None, raw, problem=problem)


def _unusable(row: RecordBatch) -> RowProblem:
    """What keeps a row from becoming values: text that is no UTF-8, or a time that no calendar has."""
    for column, array in parts_of(row):
        try:
            array.to_pylist()
        except UnicodeDecodeError as error:
            what = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
            return RowProblem("invalid_utf8", what, f"$.{column}")
        except (ValueError, OverflowError) as error:
            what = f"a value of type {array.type} that can't be read ({' '.join(str(error).split())})"
            return RowProblem("wrong_type", what, f"$.{column}", "Correct it, or leave the column out of the file")
    raise AssertionError("a row can't be read whose columns can")


class _Excerpt:
    """Makes values of a row that has some which can't be made, or too many: for the quarantine only."""

    def __init__(self, size: int) -> None:
        self._left = size

    def of(self, value: Scalar) -> Any:
        """Bytes where text isn't UTF-8, text where a time is out of range, and nothing once the size is reached."""
        import pyarrow as pa

        if isinstance(value, pa.DictionaryScalar):
            value = value.value
        if not value.is_valid or self._left <= 0:
            return None
        if isinstance(value, pa.StructScalar):
            return {field.name: self.of(value[i]) for i, field in enumerate(value.type)}
        if isinstance(value, pa.ListScalar | pa.ListViewScalar):
            return self._of_items(value.values)
        return self._of_bytes(value) if hasattr(value, "as_buffer") else self._of_number(value)

    def _of_number(self, value: Scalar) -> Any:
        import pyarrow as pa

        self._left -= BYTES_OF_A_VALUE
        try:
            return value.as_py()
        except (ValueError, OverflowError):
            return value.cast(pa.string()).as_py()

    def _of_items(self, items: Array) -> list[Any]:
        made = []
        for item in items:
            if self._left <= 0:
                break
            self._left -= BYTES_OF_A_VALUE
            made.append(self.of(item))
        return made

    def _of_bytes(self, value: Scalar) -> str | bytes:
        import pyarrow as pa

        whole = value.as_buffer()
        data: bytes = whole.slice(0, min(whole.size, self._left)).to_pybytes()
        self._left -= len(data)
        if pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type):
            return data
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            is_cut = len(data) < whole.size and error.end == len(data) and error.start > len(data) - 4
            return data[: error.start].decode("utf-8") if is_cut else data


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
