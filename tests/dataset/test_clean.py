"""Every record is kept, a duplicate, or in quarantine."""

import base64
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import DatasetConfig
from solotune.dataset.clean import Clean, Counts, clean, digest, quarantine_line
from solotune.dataset.contract import Message, Row, decode
from solotune.dataset.formats import Parser
from solotune.dataset.readers.source import RawRecord
from solotune.dataset.reasons import RowProblem


def raw(row_id: str | None, question: str = "q", answer: str = "a", **meta: object) -> bytes:
    row: dict = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    if row_id is not None:
        row["id"] = row_id
    if meta:
        row["meta"] = meta
    return json.dumps(row).encode()


def run(*raws: bytes) -> tuple[list[Clean], list[tuple[int, str]], Counts]:
    records = [RawRecord("f", n, 0, r, note="" if r.strip() else "blank_line") for n, r in enumerate(raws, 1)]
    left_out: list[tuple[int, str]] = []
    counts = Counts()
    parser = Parser(DatasetConfig(raw_files=("x",)))
    found = list(clean(records, parser.parse, lambda r, p: left_out.append((r.line, p.code)), counts))
    return found, left_out, counts


def kept(found: list[Clean]) -> list[int]:
    return [c.line for c in found if not c.is_duplicate]


def test_the_first_of_equal_rows_is_kept_whatever_their_ids_and_meta() -> None:
    found, left_out, counts = run(raw("a"), raw("b", source="x"), raw("a"), raw(None), raw("c", "other"))
    assert kept(found) == [1, 5]
    assert left_out == []
    assert (counts.rows_in, counts.kept, counts.duplicates, counts.quarantined) == (5, 2, 3, 0)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("café", "cafe\u0301", True),
        ("q", "  q\n", True),
        ("q", "Q", False),
        ("a b", "a  b", False),
        ("\ufb01x", "fix", False),
    ],
)
def test_rows_are_equal_up_to_canonical_form_and_outer_white_space(one: str, other: str, equal: bool) -> None:
    assert (digest(decode(raw("a", one))) == digest(decode(raw("b", other)))) is equal


def test_where_one_turn_ends_and_the_next_begins_is_part_of_what_is_said() -> None:
    assert digest(decode(raw("a", "x", "yz"))) != digest(decode(raw("a", "xy", "z")))


def test_who_says_it_is_part_of_what_is_said() -> None:
    roles = ["user", "assistant", "user", "assistant"]
    chats = {tuple(roles[:n]) for n in (2, 4)} | {("system", *roles[:n]) for n in (2, 4)}
    said = {digest(Row("a", tuple(Message(role, "x") for role in chat))) for chat in chats}
    assert len(said) == len(chats)


def test_an_id_that_comes_back_with_other_turns_is_quarantined() -> None:
    found, left_out, counts = run(raw("a", "1"), raw("a", "2"), raw("b", "2"), raw("a", "3"))
    assert kept(found) == [1, 3]
    assert left_out == [(2, "duplicate_id"), (4, "duplicate_id")]
    assert counts.reasons == {"duplicate_id": 2}


def test_a_bad_row_neither_takes_an_id_nor_makes_a_duplicate() -> None:
    found, left_out, _ = run(raw("a", "", "a"), raw("a"), raw("b", "q", " "), raw("b", "r"))
    assert kept(found) == [2, 4]
    assert left_out == [(1, "empty_content"), (3, "empty_content")]


def test_duplicates_are_handed_on_for_what_they_declare() -> None:
    found, _, _ = run(raw("a"), raw("b", split="test"))
    assert [(c.line, c.is_duplicate, c.row.meta.split) for c in found][1] == (2, True, "test")


def test_blank_lines_are_counted_and_are_no_rows() -> None:
    _, _, counts = run(b"", raw("a"), b"  ")
    assert (counts.rows_in, counts.notes) == (1, {"blank_line": 2})


def test_lost_rows_are_noticed() -> None:
    with pytest.raises(AssertionError, match="rows were lost"):
        Counts(rows_in=3, kept=1, duplicates=1).check_conservation()


some_lines = st.one_of(
    st.builds(raw, st.sampled_from(["a", "b", "", None]), st.sampled_from(["p", "q", " ", "<|x|>"])),
    st.binary(max_size=12).filter(lambda b: b"\n" not in b),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(some_lines, max_size=25))
def test_rows_in_are_rows_kept_and_duplicates_and_quarantined(lines: list[bytes]) -> None:
    found, left_out, counts = run(*lines)
    assert counts.rows_in == counts.kept + counts.duplicates + counts.quarantined
    assert counts.rows_in == sum(bool(line.strip()) for line in lines)
    assert (counts.kept, counts.quarantined) == (len(kept(found)), len(left_out))
    assert len({digest(c.row) for c in found}) == counts.kept
    assert len({c.row.id for c in found if not c.is_duplicate}) == counts.kept
    assert sorted([*(c.line for c in found), *(line for line, _ in left_out)]) == [
        n for n, line in enumerate(lines, 1) if line.strip()
    ]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=30))
def test_a_quarantined_row_is_recovered_to_the_byte(content: bytes) -> None:
    problem = RowProblem("invalid_json", "no")
    line = json.loads(msgspec.json.encode(quarantine_line(RawRecord("f", 3, 9, content), problem)))
    assert list(line)[:5] == ["file", "line", "offset", "code", "message"]
    if "raw" in line:
        assert line["raw"].encode() == content
    else:
        with pytest.raises(UnicodeDecodeError):
            content.decode()
        assert base64.b64decode(line["raw_base64"]) == content
