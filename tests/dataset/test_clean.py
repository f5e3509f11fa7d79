"""Every record is kept, a duplicate, or in quarantine."""

import base64
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.config.schema import DatasetConfig
from solotune.dataset.clean import Clean, Counts, clean, digest, quarantine_line
from solotune.dataset.contract import checked_line, checked_value
from solotune.dataset.digests import DigestSet, digest_of
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
    found = list(clean(records, parser.parse_many, lambda r, p: left_out.append((r.line, p.code)), counts))
    return found, left_out, counts


def said(line: bytes) -> bytes:
    return digest(checked_line(line).said)


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
    assert (said(raw("a", one)) == said(raw("b", other))) is equal


def test_where_one_turn_ends_and_the_next_begins_is_part_of_what_is_said() -> None:
    assert said(raw("a", "x", "yz")) != said(raw("a", "xy", "z"))


def test_who_says_it_is_part_of_what_is_said() -> None:
    roles = ["user", "assistant", "user", "assistant"]
    chats = {tuple(roles[:n]) for n in (2, 4)} | {("system", *roles[:n]) for n in (2, 4)}
    found = {
        digest(checked_value({"messages": [{"role": role, "content": "x"} for role in chat]}).said) for chat in chats
    }
    assert len(found) == len(chats)


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
    assert [(c.line, c.is_duplicate, c.checked.row.meta.split) for c in found][1] == (2, True, "test")


def test_blank_lines_are_counted_and_are_no_rows() -> None:
    _, _, counts = run(b"", raw("a"), b"  ")
    assert (counts.rows_in, counts.notes) == (1, {"blank_line": 2})


@pytest.mark.parametrize(
    ("contents", "notes"),
    [
        (["plain", "caf\u00e9"], {}),
        (["cafe\u0301", "cafe\u0301 again"], {"not_nfc": 2}),
        (["a\u200bb", "a\u202eb", "a\ufeffb", "\U000e0041b"], {"invisible_character": 4}),
        (["\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e"], {}),
        (["e\u0301\u2066x"], {"not_nfc": 1, "invisible_character": 1}),
    ],
)
def test_odd_characters_are_counted_and_kept(contents: list[str], notes: dict[str, int]) -> None:
    found, left_out, counts = run(*(raw(f"r{i}", c) for i, c in enumerate(contents)))
    assert (kept(found), left_out) == (list(range(1, len(contents) + 1)), [])
    assert [json.loads(f.checked.encoded)["messages"][0]["content"] for f in found] == contents
    assert counts.notes == notes


@pytest.mark.parametrize(
    ("ids", "collisions"),
    [
        (["a", "b"], 0),
        (["a", "A"], 1),
        (["A", "a"], 1),
        (["A\u0308", "\u00c4", "\u00e4"], 2),
        (["\ufb01", "fi", "FI"], 2),
        (["stra\u00dfe", "STRASSE"], 1),
        (["A", "B", "C"], 0),
    ],
)
def test_ids_that_collide_as_file_names_are_counted_and_kept(ids: list[str], collisions: int) -> None:
    found, left_out, counts = run(*(raw(row_id, f"q{i}") for i, row_id in enumerate(ids)))
    assert (len(found), left_out, counts.notes["id_collision"]) == (len(ids), [], collisions)


@pytest.mark.parametrize("keys", [[str(i) for i in range(1000)], [digest_of(str(i)) for i in range(1000)]])
def test_what_was_seen_is_known_also_once_it_is_packed(monkeypatch: pytest.MonkeyPatch, keys: list) -> None:
    monkeypatch.setattr("solotune.dataset.digests._MOST_RECENT", 64)
    seen = DigestSet()
    assert [seen.add(key) for key in keys + keys] == [True] * 1000 + [False] * 1000
    assert all(key in seen for key in keys)
    assert "other" not in seen
    assert seen.add("other")
    seen.take_back("other")
    assert "other" not in seen


def test_lost_rows_are_noticed() -> None:
    with pytest.raises(AssertionError, match="rows were lost"):
        Counts(rows_in=3, kept=1, duplicates=1).check_conservation()


some_lines = st.one_of(
    st.builds(raw, st.sampled_from(["a", "b", "", None]), st.sampled_from(["p", "q", " ", "<|x|>"])),
    st.binary(max_size=12).filter(lambda b: b"\n" not in b),
)


@settings(max_examples=80)
@given(st.lists(some_lines, max_size=25))
def test_rows_in_are_rows_kept_and_duplicates_and_quarantined(lines: list[bytes]) -> None:
    found, left_out, counts = run(*lines)
    assert counts.rows_in == counts.kept + counts.duplicates + counts.quarantined
    assert counts.rows_in == sum(bool(line.strip()) for line in lines)
    assert (counts.kept, counts.quarantined) == (len(kept(found)), len(left_out))
    assert len({digest(c.checked.said) for c in found}) == counts.kept
    assert len({c.checked.row.id for c in found if not c.is_duplicate}) == counts.kept
    assert sorted([*(c.line for c in found), *(line for line, _ in left_out)]) == [
        n for n, line in enumerate(lines, 1) if line.strip()
    ]


@settings(max_examples=50)
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
