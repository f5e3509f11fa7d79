"""Files of every type, record by record: places are exact, damage stays where it is."""

import csv
import gzip
import json
import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.dataset.readers import READERS, delimited, find_files, jsonl, parquet, parquet_batches, read_file, source
from solotune.dataset.readers.raw_files import RawFiles
from solotune.dataset.readers.source import KEPT_OF_LONG_LINE, MAX_LINE_BYTES, RawRecord, TableRow
from solotune.errors import DataError

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def records(name: str, content: bytes) -> list[RawRecord]:
    Path(name).write_bytes(content)
    return list(read_file(Path(name), name))


def places(found: list[RawRecord]) -> list[tuple]:
    return [(r.line, r.offset, r.raw, r.note or (r.problem.code if r.problem else "")) for r in found]


# --- JSON Lines -----------------------------------------------------------------------------------


def test_jsonl_lines_have_their_number_offset_and_bytes() -> None:
    assert places(records("a.jsonl", b'{"a":1}\n\n \t\r\n{"b":2}\r\nlast')) == [
        (1, 0, b'{"a":1}', ""),
        (2, 8, b"", "blank_line"),
        (3, 9, b" \t\r", "blank_line"),
        (4, 13, b'{"b":2}\r', ""),
        (5, 22, b"last", ""),
    ]


def test_jsonl_lines_end_at_a_line_feed_and_nowhere_else() -> None:
    row = "a\u2028b\u2029c\x85d\x0be\x0cf\rg".encode()
    assert places(records("a.jsonl", row + b"\n")) == [(1, 0, row, "")]


def test_a_byte_order_mark_is_passed_over_at_the_start_of_a_file_only() -> None:
    assert places(records("a.jsonl", BOM + b"x\n" + BOM + b"y\n")) == [
        (1, 0, BOM, "bom"),
        (1, 3, b"x", ""),
        (2, 5, BOM + b"y", ""),
    ]
    assert places(records("b.jsonl", BOM)) == [(1, 0, BOM, "bom")]


def test_an_empty_file_has_no_records() -> None:
    assert records("a.jsonl", b"") == []


def test_the_longest_line_is_whole_and_a_longer_one_is_cut_and_named() -> None:
    whole, over = b"x" * MAX_LINE_BYTES, b"y" * (MAX_LINE_BYTES + 1)
    found = records("a.jsonl", whole + b"\n" + over + b"\nafter\n" + over)
    assert [(r.line, r.offset, len(r.raw), r.problem and r.problem.code) for r in found] == [
        (1, 0, MAX_LINE_BYTES, None),
        (2, MAX_LINE_BYTES + 1, KEPT_OF_LONG_LINE, "line_too_long"),
        (3, 2 * MAX_LINE_BYTES + 3, 5, None),
        (4, 2 * MAX_LINE_BYTES + 9, KEPT_OF_LONG_LINE, "line_too_long"),
    ]
    assert f"{MAX_LINE_BYTES + 2:,} bytes" in str(found[1].problem)


def test_a_line_of_any_length_takes_bounded_memory() -> None:
    with gzip.open("a.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b" " * 1024 * 1024)
    tracemalloc.start()
    try:
        found = [r.problem and r.problem.code for r in read_file(Path("a.jsonl.gz"), "a")]
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert found == ["line_too_long"]


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b"\n" not in b and b.strip(b" \t\r")), max_size=6))
def test_jsonl_offsets_lead_back_to_the_bytes(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    found = [r for r in records("p.jsonl", data) if not r.note]
    assert all(data[r.offset : r.offset + len(r.raw)] == r.raw for r in found)
    assert [r.raw for r in found] == [
        *([lines[0].removeprefix(BOM)] if lines and lines[0] != BOM else []),
        *lines[1:],
    ]


# --- JSON arrays ----------------------------------------------------------------------------------


def test_an_array_is_cut_into_its_elements() -> None:
    content = b' [\n {"a": "]}, [", "q": "\\"}"},\n\n {"b": [1, {"c": []}]} ,7\n]\n'
    assert places(records("a.json", content)) == [
        (2, 4, b'{"a": "]}, [", "q": "\\"}"}', ""),
        (4, 34, b'{"b": [1, {"c": []}]}', ""),
        (4, 57, b"7", ""),
    ]


@pytest.mark.parametrize(
    ("content", "raws"),
    [
        (b"[]", []),
        (b"[ \n ]", []),
        (b"[1]", [b"1"]),
        (BOM + b"[1]", [BOM, b"1"]),
        (b"[1,]", [b"1", b""]),
        (b"[,1]", [b"", b"1"]),
        (b"[{bad}, {]}, 1", None),
        (b'[{"a": nope}, {"a": 1}, "\xff"]', [b'{"a": nope}', b'{"a": 1}', b'"\xff"']),
        (b"[{]}]", None),
        (b"[1}", None),
        (b"[1] [2]", None),
        (b'[{"a": "x', None),
        (b'[{"a": "x}, {"a": 1}]', None),
        (b'[{"a": [}, {"a": 1}]', None),
        (b'["' + b'\\"' * 50_000, None),
        (b"", None),
        (b'{"rows": []}', None),
        (b'{"a": 1}\n{"a": 2}\n', None),
    ],
)
def test_an_element_costs_one_row_if_it_is_closed_and_otherwise_the_file(
    content: bytes, raws: list[bytes] | None
) -> None:
    if raws is None:
        with pytest.raises(DataError, match=r"^a\.json "):
            records("a.json", content)
    else:
        assert [r.raw for r in records("a.json", content)] == raws


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80)
@given(st.lists(json_values, max_size=5), st.sampled_from([None, 0, 2]), st.booleans())
def test_elements_are_those_that_a_parser_finds(values: list[Any], indent: int | None, ascii_only: bool) -> None:
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    found = records("p.json", data)
    assert [json.loads(r.raw) for r in found] == values
    for r in found:
        assert data[r.offset : r.offset + len(r.raw)] == r.raw
        assert data.count(b"\n", 0, r.offset) + 1 == r.line


# --- CSV and TSV ----------------------------------------------------------------------------------


def test_csv_records_have_the_line_where_they_begin_and_their_bytes() -> None:
    content = b'q,a\r\n1,2\r\n"x\ny ""z""","p,q"\r\n\r\n3,4'
    found = records("a.csv", content)
    assert places(found) == [
        (2, 5, b"1,2\r", ""),
        (3, 10, b'"x\ny ""z""","p,q"\r', ""),
        (5, 29, b"\r", "blank_line"),
        (6, 31, b"3,4", ""),
    ]
    assert [r.value for r in found if not r.note] == [
        {"q": "1", "a": "2"},
        {"q": 'x\ny "z"', "a": "p,q"},
        {"q": "3", "a": "4"},
    ]


def test_tsv_is_the_same_with_tabs() -> None:
    found = records("a.tsv", BOM + b"q\ta\n1,5\t2\n\t\n")
    assert [(r.line, r.note, r.value) for r in found] == [
        (1, "bom", msgspec.UNSET),
        (2, "", {"q": "1,5", "a": "2"}),
        (3, "", {"q": "", "a": ""}),
    ]


def test_a_broken_csv_record_costs_one_row() -> None:
    found = records("a.csv", b'q,a\n1\n1,2,3\n"a"b"c",2\n\xff,2\nx\ry,2\n5" pipe,2\n"x",5"\n5,6\n')
    assert [(r.line, r.problem and r.problem.code) for r in found] == [
        *((line, "invalid_csv") for line in (2, 3, 4)),
        (5, "invalid_utf8"),
        *((line, "invalid_csv") for line in (6, 7, 8)),
        (9, None),
    ]
    assert [r.raw for r in found][:4] == [b"1", b"1,2,3", b'"a"b"c",2', b"\xff,2"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'"He said "hi" to\nme, and left","ok"', "a quote inside a quoted cell isn't doubled"),
        (b'"He said "hi", to\nx,y\nme, and left","ok"', "a quote inside a quoted cell isn't doubled"),
        (b'"From 5\' to 6" tall\nx,y\nor 7" tall","ok"', "a quote inside a quoted cell isn't doubled"),
        (b'"He said \\"hi\\" to\nx,y\nme","ok"', "a quote inside a quoted cell isn't doubled"),
        (b'ok, "two\nx,y\nlines"', "white space before an opening quote"),
        (b'"two\nx,y\nlines" ,ok', "white space after a closing quote"),
        (b'say "hi" now,ok', "a quote in a cell that isn't quoted"),
        (b'say "hi,"two\nx,y\nlines"', "a quote in a cell that isn't quoted"),
        (b'a\r"b\nx,y\nz","ok"', "new-line character seen"),
        (b'"two\nx,y\n\xff","ok"', "byte 0xff at position 0"),
        (BOM + b'"two\nx,y\nlines",ok', "U\\+FEFF"),
    ],
)
def test_no_line_of_a_broken_csv_record_becomes_a_row(broken: bytes, message: str) -> None:
    for before, line_break in ((b"1,2", b"\n"), (b'"1\n1","2"', b"\r\n")):
        lines = [b"q,a", before, broken.replace(b"\n", line_break), b'"5","6"', b"7,8"]
        found = records("a.csv", line_break.join(lines) + line_break)
        assert [r.value["a"] for r in found if not r.problem] == ["2", "6", "8"]
        (left_out,) = [r for r in found if r.problem]
        assert left_out.raw.removesuffix(b"\r") == lines[2]
        assert re.search(message, str(left_out.problem))


speech = st.lists(st.sampled_from(["x", "y,", "x,y", "\n", ",", '""']), max_size=6).map("".join)


@settings(max_examples=300)
@given(st.lists(st.tuples(speech, speech), max_size=4), st.tuples(speech, speech, speech), st.integers(0, 4))
def test_speech_whose_quotes_are_not_doubled_adds_no_row(
    rows: list[tuple[str, str]], broken: tuple[str, str, str], at: int
) -> None:
    """However the line breaks fall: what is kept are rows that were written."""
    before, said, after = broken
    written = [f'"{q}","{a}"' for q, a in rows]
    bad = f'"{before} "said{said}" {after}","z"'
    lines = ["q,a", *written[:at], bad, *written[at:], ""]
    try:
        found = records("p.csv", "\n".join(lines).encode())
    except DataError as error:
        assert "isn't doubled" in str(error)  # noqa: PT017 - either way out is a right one
        return
    assert {r.raw.decode() for r in found if not r.problem} <= set(written)
    assert any(bad in r.raw.decode() for r in found if r.problem)


@settings(max_examples=200)
@given(st.text(st.sampled_from('"a ,\t\n\r\\'), max_size=24), st.sampled_from(["p.csv", "p.tsv"]))
def test_every_byte_of_a_delimited_file_is_in_one_record(text: str, name: str) -> None:
    data = ("q,a\n" if name == "p.csv" else "q\ta\n").encode() + text.encode()
    try:
        found = records(name, data)
    except DataError:
        return
    at = 4
    for r in found:
        assert (r.offset, data[at : at + len(r.raw)]) == (at, r.raw)
        assert r.line == 1 + data.count(b"\n", 0, at)
        at += len(r.raw)
        assert data[at : at + 1] in (b"\n", b"")
        at += 1
    assert at >= len(data)


def test_a_byte_order_mark_inside_a_csv_file_costs_one_row() -> None:
    found = records("a.csv", BOM + b"q,a\n1,2\n" + BOM + b"q,a\n3," + BOM + b"4\n")
    assert [(r.line, r.note or (r.problem and r.problem.code)) for r in found] == [
        (1, "bom"),
        (2, None),
        (3, "bom_inside"),
        (4, None),
    ]


@pytest.mark.parametrize(
    "record",
    [
        b"x" * (MAX_LINE_BYTES + 9) + b",2",
        b'"' + b"x" * 9 * 2**20 + b'\nx,y\n""x,y","z"',
        b'"' + (b"x" * 2**20 + b"\n") * 9 + b'x",2',
        b'"a","' + b'""' * 5 * 2**20 + b'\nx,y\n"',
        b'"' + (b"\r" * 63 + b"\n") * (MAX_LINE_BYTES // 64 + 9) + b'",2',
        b'x"' + b"," * (MAX_LINE_BYTES + 9),
    ],
)
def test_an_over_long_csv_record_costs_one_row_with_all_of_its_lines(record: bytes) -> None:
    tracemalloc.start()
    try:
        found = records("a.csv", b"q,a\n1,2\n" + record + b"\n5,6\n")
        assert tracemalloc.get_traced_memory()[1] < 5 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()
    assert [(r.line, r.problem and r.problem.code) for r in found] == [
        (2, None),
        (3, "line_too_long"),
        (4 + record.count(b"\n"), None),
    ]
    assert (found[1].raw, found[2].offset) == (record[:KEPT_OF_LONG_LINE], 8 + len(record) + 1)
    assert f"record: {len(record) + 1:,} bytes" in str(found[1].problem)


@settings(max_examples=200)
@given(st.text(st.sampled_from('"a ,\n\r'), max_size=30))
def test_the_pieces_in_which_an_over_long_record_is_read_change_nothing(text: str) -> None:
    def read_in_pieces_of(size: int) -> list[tuple] | str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delimited, "MAX_LINE_BYTES", 8)
            patch.setattr(delimited, "KEPT_OF_LONG_LINE", 4)
            patch.setattr(delimited, "CHUNK_BYTES", size)
            try:
                return places(records("p.csv", b"q,a\n" + text.encode()))
            except DataError as error:
                return str(error)

    assert read_in_pieces_of(1) == read_in_pieces_of(2) == read_in_pieces_of(5) == read_in_pieces_of(99)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.csv is empty"),
        (b"\n\n", "a.csv is empty"),
        (b"q,q\n1,2\n", "has the column 'q' twice"),
        (b"q,\n1,2\n", "column without a name"),
        (b"q,\xff\n1,2\n", "the header can't be read"),
        (b'q,a\n1,2\n"open,2\n3,4\n', "a.csv:3: a quote that opens"),
        (b'q,a\n1,2\n"a"b,2\n3,4\n5,6', r"a\.csv:3: .*isn't doubled\), and where it ends .* the file ends"),
        (b'q,a\n"a"b,2\n' + b"3,4\n" * 2**21 + b'"', r"a\.csv:2: .*isn't doubled\), and where it ends .* 8 MiB"),
        (b'"q,a\n1,2\n', "a.csv:1: a quote that opens"),
        (b",".join(b"%d" % i for i in range(100_000)) + b",7\n", "has the column '7' twice"),
    ],
)
def test_a_csv_file_that_cannot_be_told_apart_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        records("a.csv", content)


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        ("a.csv", b"prompt;completion", "'prompt;completion'; in a .csv file commas divide .* not semicolons.*sep=';'"),
        ("a.csv", b'"prompt";"completion";"id"', "commas divide the columns, not semicolons"),
        ("a.csv", BOM + b"prompt|completion\r", "'prompt|completion'; .*not bars"),
        ("a.csv", b"prompt\tcompletion", r"not tabs\. .*name it \.tsv"),
        ("a.tsv", b"prompt,completion", r"in a \.tsv file tabs divide .*, not commas\. .*name it \.csv"),
        ("a.csv", b'"prompt,completion"', "Take away the quotes"),
    ],
)
def test_a_header_with_another_separator_is_refused(name: str, header: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        records(name, header + b"\nx;y\n")


def test_a_single_column_is_a_header() -> None:
    assert [r.value for r in records("a.csv", b"text\na;b\n")] == [{"text": "a;b"}]


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=2, max_size=2).filter(any),
        max_size=5,
    )
)
def test_what_the_csv_module_writes_is_read_back(rows: list[list[str]]) -> None:
    with Path("p.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["q", "a"], *rows])
    data = Path("p.csv").read_bytes()
    found = list(read_file(Path("p.csv"), "p.csv"))
    assert [list(r.value.values()) for r in found] == rows
    assert all(data[r.offset : r.offset + len(r.raw)] == r.raw for r in found)


# --- Parquet --------------------------------------------------------------------------------------


def test_parquet_rows_are_values_with_nulls_left_out() -> None:
    table = pa.table({"q": ["x", None], "meta": [{"split": None, "tags": ["t"]}, None], "n": [1, 2]})
    pa.parquet.write_table(table, "a.parquet")
    found = list(read_file(Path("a.parquet"), "a.parquet"))
    assert [r.value for r in found] == [{"q": "x", "meta": {"tags": ["t"]}, "n": 1}, {"n": 2}]
    assert [(r.line, r.offset) for r in found] == [(1, None), (2, None)]
    assert json.loads(found[0].raw) == found[0].value


def test_parquet_is_read_a_batch_at_a_time() -> None:
    pa.parquet.write_table(pa.table({"n": list(range(3000))}), "a.parquet", row_group_size=700)
    assert [r.value["n"] for r in read_file(Path("a.parquet"), "a")] == list(range(3000))


def write_parquet(name: str, **columns: Any) -> None:
    """Without the types of Arrow, as other writers do."""
    pa.parquet.write_table(pa.table(columns), name, compression="zstd", store_schema=False)


def repeated(text: str, times: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), [text])


def in_one_list(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


@contextmanager
def memory_below(size: int) -> Iterator[None]:
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
        assert pool.max_memory() + tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def test_an_over_long_parquet_row_costs_one_row_and_little_memory() -> None:
    write_parquet("a.parquet", n=list(range(20)), p=repeated("x" * 12 * 2**20, 20))
    with memory_below(100 * 2**20):
        found = list(read_file(Path("a.parquet"), "a"))
    assert [(r.line, r.problem and r.problem.code) for r in found] == [(i, "line_too_long") for i in range(1, 21)]
    assert found[7].raw == b'{"n":7,"p":"' + b"x" * (KEPT_OF_LONG_LINE - 12)
    assert "row: 12,58" in str(found[7].problem)


@pytest.mark.parametrize(
    "column",
    [
        repeated("x" * 12 * 2**20, 60),
        in_one_list(repeated("x" * 12 * 2**20, 60)),
        in_one_list(pa.StructArray.from_arrays([repeated("x" * 12 * 2**20, 60), pa.array(range(60))], ["p", "n"])),
        in_one_list(pa.repeat(7, 40 * 2**20)),
        pa.repeat(b"x" * 2**20, 300).cast(pa.binary(2**20)),
    ],
    ids=["text", "list", "list of structs", "long list", "fixed size"],
)
def test_a_parquet_bomb_is_refused_before_it_fills_the_memory(column: pa.Array) -> None:
    write_parquet("a.parquet", p=column)
    assert Path("a.parquet").stat().st_size < 10_000
    with (
        memory_below(100 * 2**20),
        pytest.raises(DataError, match=r"a\.parquet unpacks to more than 268,435,456 bytes"),
    ):
        list(read_file(Path("a.parquet"), "a"))


def test_a_parquet_row_of_many_repeated_texts_is_too_long() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 0, 2, 152, 153], pa.int32()), repeated("é" * 2**19, 153))
    write_parquet("a.parquet", p=lists, n=["a", "b", "c", "d"])
    with memory_below(100 * 2**20):
        found = list(read_file(Path("a.parquet"), "a"))
    assert [r.problem and r.problem.code for r in found] == [None, None, "line_too_long", None]
    assert [len(r.value["p"]) for r in found if not r.problem] == [0, 2, 1]
    assert found[2].raw.startswith(b'{"p":["\xc3\xa9')
    assert len(found[2].raw) <= KEPT_OF_LONG_LINE


@settings(max_examples=60)
@given(
    st.lists(st.tuples(json_values, st.lists(st.text(st.sampled_from("aé\n"), max_size=9), max_size=4)), max_size=9),
    st.sampled_from([1, 40, 1000]),
    st.booleans(),
)
def test_rows_are_the_same_however_parquet_is_read(rows: list, small: int, use_dictionary: bool) -> None:
    """Limits that play that all values are long and all groups large."""
    messages = [[{"role": "r", "content": {"text": text}} for text in texts] for _, texts in rows]
    table = pa.table({"a": [json.dumps(value) for value, _ in rows], "messages": messages, "t": [t for _, t in rows]})
    pa.parquet.write_table(table, "p.parquet", row_group_size=4, use_dictionary=use_dictionary)
    wanted = table.to_pylist()
    for limit in ("_HARMLESS_BYTES", "_REPEATED_BYTES", "_SMALL_GROUP_BYTES", "_BATCH_BYTES", "MAX_LINE_BYTES"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parquet_batches, "_HARMLESS_BYTES", 0)
            patch.setattr(parquet if limit == "MAX_LINE_BYTES" else parquet_batches, limit, small)
            found = list(read_file(Path("p.parquet"), "p"))
        assert [r.line for r in found] == list(range(1, len(rows) + 1))
        kept = [r for r in found if not r.problem]
        assert all(r.value == wanted[r.line - 1] == json.loads(r.raw) for r in kept)
        assert len(kept) == len(rows) or limit == "MAX_LINE_BYTES"


@pytest.mark.parametrize(
    ("column", "name"),
    [
        (pa.array([1]), "a"),
        (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]), r"b\.x"),
        (in_one_list(pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])), r"b\.x"),
    ],
)
def test_a_parquet_column_that_stands_twice_is_named(column: pa.Array, name: str) -> None:
    table = pa.Table.from_arrays([pa.array([1]), column], names=["a", "a" if name == "a" else "b"])
    pa.parquet.write_table(table, "a.parquet")
    with pytest.raises(DataError, match=rf"a\.parquet has the column '{name}' twice"):
        list(read_file(Path("a.parquet"), "a.parquet"))


@pytest.mark.parametrize(
    ("column", "code", "message", "raw"),
    [
        (
            pa.array([b"a", b"b\xff", b"c"]).view(pa.string()),
            "invalid_utf8",
            r"\$\.x: byte 0xff at position 1",
            {"q": "2", "x": "Yv8="},
        ),
        (
            pa.array([1, 10**8, 2], pa.int32()).view(pa.date32()),
            "wrong_type",
            r"\$\.x: a value of type date32\[day\] that can't be read \(date value out of range\)",
            {"q": "2", "x": "<value out of range: 100000000>"},
        ),
        (
            pa.StructArray.from_arrays([pa.array([1, 2**62, 2]).view(pa.timestamp("us"))], ["t"]),
            "wrong_type",
            r"\$\.x: a value of type struct<t: timestamp\[us\]>",
            {"q": "2", "x": {"t": "<value out of range: 4611686018427387904>"}},
        ),
        (
            pa.ListArray.from_arrays([0, 1, 3, 3], pa.array([b"a", b"\xff", b"c"]).view(pa.string())),
            "invalid_utf8",
            r"\$\.x: byte 0xff",
            {"q": "2", "x": ["/w==", "c"]},
        ),
    ],
)
def test_a_parquet_value_that_cannot_be_read_costs_its_row(
    column: pa.Array, code: str, message: str, raw: dict[str, Any]
) -> None:
    pa.parquet.write_table(pa.table({"q": ["1", "2", "3"], "x": column}), "a.parquet")
    found = list(read_file(Path("a.parquet"), "a"))
    assert [(r.line, r.problem and r.problem.code) for r in found] == [(1, None), (2, code), (3, None)]
    assert re.search(message, str(found[1].problem))
    assert json.loads(found[1].raw) == raw
    assert [r.value["q"] for r in (found[0], found[2])] == ["1", "3"]


@pytest.mark.parametrize("bits", [0x01, 0x0F, 0x80])
def test_a_damaged_byte_of_parquet_is_a_row_less_or_a_refusal(bits: int) -> None:
    """Never another error; and some damage of the footer ends the process, if Arrow isn't asked with care."""
    table = pa.table({"a": [[{"b": "x"}, {"b": "y"}], []]})
    pa.parquet.write_table(table, "a.parquet", store_schema=False, compression="none")
    whole = Path("a.parquet").read_bytes()
    assert len(records("a.parquet", whole)) == 2
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= bits
        try:
            found = records("a.parquet", bytes(damaged))
        except DataError:
            continue
        assert [r.line for r in found] == list(range(1, len(found) + 1))


def test_a_parquet_map_is_read() -> None:
    maps = pa.array([[("a", "x")], None, [("b", "y"), ("c", None)]], pa.map_(pa.string(), pa.string()))
    pa.parquet.write_table(pa.table({"m": maps}), "a.parquet")
    assert [r.value for r in read_file(Path("a.parquet"), "a")] == [
        {"m": [("a", "x")]},
        {},
        {"m": [("b", "y"), ("c", None)]},
    ]


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1" + b"\0" * 64 + b"PAR1"])
def test_what_is_not_parquet_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"can't read a\.parquet") as caught:
        records("a.parquet", content)
    assert "\n" not in str(caught.value)


# --- Compressed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [("a.jsonl", b"1\n2\n", 2), ("a.json", b"[1,2]", 2), ("a.csv", b"q\n1\n", 1), ("a.TSV", b"q\n1\n", 1)],
)
def test_text_types_may_be_compressed(name: str, content: bytes, count: int) -> None:
    assert len(records(f"{name}.gz", gzip.compress(content))) == count
    assert places(records(f"{name}.gz", gzip.compress(content))) == places(records(name, content))
    assert places(records(f"{name}.zst", zstandard.compress(content))) == places(records(name, content))


def test_a_damaged_gz_file_is_refused() -> None:
    whole = gzip.compress(os.urandom(4000))
    for content in (whole[:-9], whole[:200], b"no gz", whole[:20] + b"\0" * 80 + whole[100:]):
        with pytest.raises(DataError, match=r"can't read a\.jsonl\.gz"):
            records("a.jsonl.gz", content)


def test_zstd_and_gzip_files_may_be_several_put_together() -> None:
    one, other = b'"' + os.urandom(3000).hex().encode() + b'"\n', b"2\n"
    for end, pack in ((".gz", gzip.compress), (".zst", zstandard.compress)):
        assert [r.raw + b"\n" for r in records(f"a.jsonl{end}", pack(one) + pack(b"") + pack(other))] == [one, other]


def test_a_damaged_zstd_file_is_refused() -> None:
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(os.urandom(4000))
    for content in (
        whole[:-1],
        whole[:200],
        b"no zstd",
        whole[:20] + b"\0" * 80 + whole[100:],
        whole + b"tail",
        whole * 2 + whole[:9],
    ):
        with pytest.raises(DataError, match=r"can't read a\.jsonl\.zst: (not zstd|the file ends inside)"):
            records("a.jsonl.zst", content)


def test_a_zstd_file_that_asks_for_much_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(DataError, match="too large a window"):
        records("a.jsonl.zst", packer.compress(b"1\n") + packer.flush())


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("a.json.gz", gzip.compress),
        ("a.csv.zst", zstandard.compress),
    ],
)
def test_a_bomb_is_refused_before_it_fills_the_memory(name: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(b"q,a\n" + b" " * (300 * 1024**2))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"{name} unpacks to more than 268,435,456 bytes: the limit is 200 times"):
            records(name, bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if name != "a.json.gz":  # an array is read whole, up to the limit
        assert peak < 100 * 1024**2


def test_the_ratio_and_the_total_are_limits_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "RATIO_COUNTS_FROM_BYTES", 1000)
    honest = "".join(f'"{os.urandom(50).hex()}"\n' for _ in range(500)).encode()
    assert len(records("a.jsonl.gz", gzip.compress(honest))) == 500
    with pytest.raises(DataError, match="the limit is 200 times its packed size"):
        records("a.jsonl.gz", gzip.compress(b" " * 10**6))
    monkeypatch.setattr(source, "MAX_UNPACKED_BYTES", len(honest))
    assert len(records("a.jsonl.gz", gzip.compress(honest))) == 500
    monkeypatch.setattr(source, "MAX_UNPACKED_BYTES", len(honest) - 1)
    with pytest.raises(DataError, match=f"unpacks to more than {len(honest) - 1:,} bytes"):
        records("a.jsonl.gz", gzip.compress(honest))
    with pytest.raises(DataError, match=f"a.jsonl has more than {len(honest) - 1:,} bytes"):
        records("a.jsonl", honest)


# --- Which files ----------------------------------------------------------------------------------


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def test_patterns_keep_their_order_and_expand_sorted() -> None:
    touch("raw/b.jsonl", "raw/a.jsonl", "raw/deep/c.jsonl", "z.json", "raw/[x].jsonl", "raw/dir.jsonl/d.jsonl")
    assert list(find_files(["z.json", "raw/*.jsonl"])) == [
        "z.json",
        "raw/[x].jsonl",
        "raw/a.jsonl",
        "raw/b.jsonl",
    ]
    assert list(find_files(["raw/**/c.jsonl", "raw/a*"])) == ["raw/deep/c.jsonl", "raw/a.jsonl"]
    assert list(find_files(["raw/[x].jsonl"])) == ["raw/[x].jsonl"]


def test_a_file_named_twice_is_read_once() -> None:
    touch("raw/a.jsonl")
    Path("raw/link.jsonl").symlink_to("a.jsonl")
    assert list(find_files(["raw/a.jsonl", "./raw/*.jsonl", "raw/link.jsonl"])) == ["raw/a.jsonl"]


def test_names_are_relative_to_the_repository_where_they_are_in_it(tmp_path: Path) -> None:
    touch("raw/a.jsonl")
    assert list(find_files([str(tmp_path / "raw" / "*.jsonl")])) == ["raw/a.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("raw/none.jsonl", "there is no file raw/none.jsonl"),
        ("raw/none-*.jsonl", r"nothing matches raw/none-\*\.jsonl"),
        ("raw", "raw is a folder"),
        ("raw/a.txt", "raw/a.txt is of a type that can't be read. Known ends are .jsonl .json .csv"),
        ("raw/*", "raw/a.txt is of a type"),
        ("raw/b.parquet.gz", "of a type that can't be read"),
        ("raw/b.parquet.zst", r"of a type that can't be read.*, and \.gz or \.zst after those that are text"),
    ],
)
def test_a_pattern_that_gives_nothing_to_read_is_named(pattern: str, message: str) -> None:
    touch("raw/a.txt", "raw/b.parquet.gz", "raw/b.parquet.zst")
    with pytest.raises(DataError, match=message):
        find_files([pattern])


def test_a_file_that_may_not_be_read_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is played."""
    touch("a.jsonl")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "a.jsonl")

    monkeypatch.setattr(Path, "open", refuse)
    for use in (lambda: list(read_file(Path("a.jsonl"), "a.jsonl")), lambda: RawFiles(("a.jsonl",))):
        with pytest.raises(DataError, match=r"^can't read a\.jsonl: Permission denied\. Check the file"):
            use()


def test_a_file_that_changes_while_it_is_read_is_refused() -> None:
    Path("a.jsonl").write_bytes(b"1\n2\n")
    reading = RawFiles(("a.jsonl",)).records()
    next(reading)
    with Path("a.jsonl").open("ab") as file:
        file.write(b"3\n")
    with pytest.raises(DataError, match=r"a\.jsonl changed while it was read"):
        list(reading)


def test_every_reader_takes_a_path_and_a_name() -> None:
    assert set(READERS) == {".jsonl", ".json", ".csv", ".tsv", ".parquet"}
    assert READERS[".jsonl"] is jsonl.read


def test_rows_of_tables_are_told_from_json_objects() -> None:
    """Only in a table may an empty text say "none"."""
    pa.parquet.write_table(pa.table({"q": [""]}), "a.parquet")
    Path("a.csv").write_bytes(b"q,a\n,\n")
    for name in ("a.parquet", "a.csv"):
        assert [type(r.value) for r in read_file(Path(name), name)] == [TableRow]
