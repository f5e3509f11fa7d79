"""How many rows of a Parquet file are in memory at once.

A few hundred bytes of Parquet can stand for gigabytes: a value that repeats is stored once. So the batch is chosen
by what the rows may come to: about 4 MiB on average, not more than 64 rows of a large row group, and fewer where
repeated values may add up to more than 64 MiB. Arrow unpacks a page of the file as a whole, whatever its size; what
the footer says of sizes is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from solotune.dataset.readers.source import UnpackedLimit
from solotune.dataset.reasons import shortened
from solotune.errors import DataError

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch
    from pyarrow.parquet import ParquetFile

_BATCH_BYTES = 4 * 1024**2
_MOST_ROWS, _MOST_ROWS_OF_LARGE_GROUP = 1024, 64
_SMALL_GROUP_BYTES = 64 * 1024**2
_REPEATED_BYTES = 64 * 1024**2
"""Bytes to which values that the file repeats may add up in a batch, each written out."""
_HARMLESS_BYTES = 64 * 1024
BYTES_OF_A_VALUE = 8
"""At least, in memory or as JSON."""


def batches(path: Path, name: str) -> Iterator[RecordBatch]:
    """Yields all rows, as many at a time as may be in memory.

    Raises:
        DataError: a column is there twice, or the file unpacks to too much.
    """
    import pyarrow.parquet

    opened = partial(
        pyarrow.parquet.ParquetFile, path, buffer_size=1024**2, pre_buffer=False, arrow_extensions_enabled=False
    )
    with opened() as file:
        _refuse_repeated_names(file.schema_arrow, name)
        _refuse_bomb(file, path)
        texts = [file.schema.column(i).path for i in range(len(file.schema.names)) if _is_text(file.schema.column(i))]
        with opened(metadata=file.metadata, read_dictionary=texts) as by_dictionary:
            for group in range(file.num_row_groups):
                rows, columns = _plan(_leaves(file, by_dictionary, group), file, group)
                with opened(metadata=file.metadata, read_dictionary=columns) as planned:
                    yield from planned.iter_batches(rows, row_groups=[group])


def size_of(array: RecordBatch | Array) -> int:
    """About the bytes that these rows take as JSON, each value written out; never far below it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = BYTES_OF_A_VALUE * len(array)
    if isinstance(array, pa.DictionaryArray):
        lengths = pc.cast(pc.binary_length(array.dictionary), pa.int64())
        return size + int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    parts = parts_of(array)
    if not parts:
        return size + int(array.nbytes)
    return size + sum(len(array) * len(key) + size_of(part) for key, part in parts)


def parts_of(array: RecordBatch | Array) -> list[tuple[str, Array]]:
    """What the values are made of, for these rows alone, with the keys that they have there."""
    import pyarrow as pa

    if isinstance(array, pa.RecordBatch):
        return list(zip(array.schema.names, array.columns, strict=True))
    if isinstance(array, pa.StructArray):
        return list(zip((field.name for field in array.type), array.flatten(), strict=True))
    if isinstance(array, pa.MapArray):
        begin, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        return [("", part.slice(begin, end - begin)) for part in (array.keys, array.items)]
    return [("", array.flatten())] if hasattr(array, "flatten") else []


def _refuse_repeated_names(fields: Iterable[Any], name: str, inside: str = "") -> None:
    """Of two columns with one name, only the last would be seen."""
    names: set[str] = set()
    for field in fields:
        where = f"{inside}.{field.name}" if inside else field.name
        if field.name in names:
            raise DataError(f"{name} has the column {shortened(where)} twice", "Rename or remove one of the two")
        names.add(field.name)
        kind = field.type
        while inner := _items_of(kind):
            kind = inner[-1]
        _refuse_repeated_names(_fields_of(kind), name, where)


def _items_of(kind: Any) -> list[Any]:
    """The types of a list's items: a map's keys and values."""
    import pyarrow as pa

    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    return [kind.value_type] if pa.types.is_nested(kind) and hasattr(kind, "value_type") else []


def _fields_of(kind: Any) -> list[Any]:
    import pyarrow as pa

    return [kind.field(i) for i in range(kind.num_fields)] if pa.types.is_struct(kind) else []


def _refuse_bomb(file: ParquetFile, path: Path) -> None:
    """By what the footer tells; what repeated values come to is seen while they are read."""
    limit, columns = UnpackedLimit(path), list(range(len(file.schema.names)))
    for group in range(file.num_row_groups):
        # No rows of it: opened for reading, a damaged column raises, where its metadata would end the process.
        list(file.reader.iter_batches(0, row_groups=[group], column_indices=columns))
        found = file.metadata.row_group(group)
        for i in columns:
            leaf, chunk = file.schema.column(i), found.column(i)
            # A run of equal values takes no room in the file. Outside of lists, a batch has few of them.
            in_memory = _width(leaf) * chunk.num_values if leaf.max_repetition_level or leaf.length else 0
            limit.add(chunk.total_uncompressed_size + in_memory)


def _is_text(leaf: Any) -> bool:
    return bool(leaf.physical_type == "BYTE_ARRAY")


def _width(leaf: Any) -> int:
    """Bytes of a value in memory, beside those of a text."""
    return max(BYTES_OF_A_VALUE, int(leaf.length))


class _Leaf(NamedTuple):
    """A column of plain values in one row group."""

    path: str
    inside: int
    """Which list it is in, the innermost; 0: in none."""
    values: int
    size: int
    """Bytes in the file, unpacked, and those of equal values that the file has no room for."""
    longest: int
    """Bytes of the longest value that the file may repeat."""
    is_risky: bool
    """Whether repeated values may come to much, each written out."""


def _leaves(file: ParquetFile, by_dictionary: ParquetFile, group: int) -> list[_Leaf]:
    lists = _lists_of([field.type for field in file.schema_arrow], [0], 0)
    made = []
    for i, inside in enumerate(lists):
        leaf, chunk = file.schema.column(i), file.metadata.row_group(group).column(i)
        values, size, longest = chunk.num_values, chunk.total_uncompressed_size, _width(leaf)
        if _is_text(leaf):
            is_harmless = values * size <= _HARMLESS_BYTES
            longest = (0 if is_harmless else _longest_repeated(by_dictionary, group, leaf.path)) or size
        is_risky = _is_text(leaf) and values * longest > _HARMLESS_BYTES
        made.append(_Leaf(leaf.path, inside, values, size + _width(leaf) * values, longest, is_risky))
    return made


def _lists_of(kinds: Iterable[Any], count: list[int], inside: int) -> list[int]:
    """Of each column of plain values, in the order of the file, the number of the innermost list that it is in."""
    found = []
    for kind in kinds:
        if items := _items_of(kind):
            count[0] += 1
            found += _lists_of(items, count, count[0])
        elif fields := _fields_of(kind):
            found += _lists_of([field.type for field in fields], count, inside)
        else:
            found.append(inside)
    return found


def _longest_repeated(by_dictionary: ParquetFile, group: int, column: str) -> int:
    """Of the values in a column's dictionary, which comes with the first value; 0 if none comes."""
    for batch in by_dictionary.iter_batches(1, row_groups=[group], columns=[column]):
        return max(map(_longest_in_dictionary, batch.columns), default=0)
    return 0


def _longest_in_dictionary(array: Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(array, pa.DictionaryArray):
        return int(pc.max(pc.binary_length(array.dictionary)).as_py() or 0)
    return max((_longest_in_dictionary(part) for _, part in parts_of(array)), default=0)


def _plan(leaves: list[_Leaf], file: ParquetFile, group: int) -> tuple[int, list[str]]:
    """How many rows of a row group to read at once, and which columns by dictionary.

    That is slow, and Arrow keeps every value it has met in the group: only where one row may be too much otherwise.
    """
    size = sum(leaf.size for leaf in leaves)
    most_rows = _MOST_ROWS if size <= _SMALL_GROUP_BYTES else _MOST_ROWS_OF_LARGE_GROUP
    most_rows = max(1, min(most_rows, _BATCH_BYTES * file.metadata.row_group(group).num_rows // max(1, size)))
    risky = [leaf for leaf in leaves if leaf.is_risky]
    for rows in (most_rows, most_rows // 8, 1):
        values = {inside: _values_at_once(inside, leaves, file, group, rows) for inside in {r.inside for r in risky}}
        if rows and sum(values[leaf.inside] * leaf.longest for leaf in risky) <= _REPEATED_BYTES:
            return rows, []
    return most_rows, [leaf.path for leaf in risky]


def _values_at_once(inside: int, leaves: list[_Leaf], file: ParquetFile, group: int, rows: int) -> int:
    """The most values of a column in a batch. Those in a list are counted in its column that is the least to read."""
    if not inside:
        return rows
    counted = min((leaf for leaf in leaves if leaf.inside == inside), key=lambda leaf: leaf.values * leaf.longest)
    if not rows or counted.values * counted.longest > _REPEATED_BYTES:
        return counted.values
    batches = file.iter_batches(rows, row_groups=[group], columns=[counted.path])
    return max((sum(map(_count_values, batch.columns)) for batch in batches), default=0)


def _count_values(array: Array) -> int:
    return sum(_count_values(part) for _, part in parts_of(array)) or len(array)
