"""Near-duplicates are found by what rows say; the verdict is exact, the same everywhere and in every order."""

import os
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solotune.dataset import near, signatures
from solotune.dataset.contract import Message, Row, encode
from solotune.dataset.shingles import MAX_BYTES, WORDS, folded, jaccard, shingles

VOCABULARY = [f"w{n}" for n in range(400)]


def row(row_id: str, text: str, system: str = "") -> Row:
    turns = (Message("user", "Say it."), Message("assistant", text))
    return Row(row_id, (Message("system", system), *turns) if system else turns)


def write(path: Path, rows: list[Row]) -> Path:
    path.write_bytes(b"".join(encode(r) + b"\n" for r in rows))
    return path


def said(text: str) -> frozenset[bytes]:
    return shingles(folded([Message("assistant", text)]))


def similarity(one: Row, other: Row) -> float:
    return jaccard(shingles(folded(one.messages)), shingles(folded(other.messages)))


def family(rng: random.Random, name: str, size: int, words: int = 80, edits: int = 2) -> list[Row]:
    """Rows made from one text by a few edits each, at its ends and within."""
    text = rng.choices(VOCABULARY, k=words)
    rows = []
    for n in range(size):
        edited = list(text)
        for _ in range(rng.randrange(edits + 1)):
            edited[rng.randrange(words)] = rng.choice(VOCABULARY)
        rows.append(row(f"{name}-{n}", " ".join(edited)))
    return rows


# --- What is compared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The quick, brown fox jumps!", "the QUICK brown\nfox - jumps".replace(" -", ""), True),
        ("“Straße” und Ｆｉｘ … so weiter", "strasse und fix so weiter", True),
        ("what is 12 + 34 and why", "what is 12 + 35 and why", False),
        ("is x < 3 so it is", "is x > 3 so it is", False),
        ("今天天气很好。", "今天天气很好", True),
        ("light in the kitchen", "light in the garage", False),
        ("yes", "Yes.", True),
    ],
)
def test_words_are_what_counts(one: str, other: str, same: bool) -> None:
    assert (jaccard(said(one), said(other)) == 1.0) is same


def test_jaccard_is_shared_shingles_by_all_shingles() -> None:
    one, other = said("a b c d e f g h"), said("a b c d e f g x")
    assert (len(one), len(other), jaccard(one, other)) == (4, 4, 3 / 5)
    assert said("a b c") == {b"a b c"}
    assert said(" ?! ") == frozenset()
    assert jaccard(said("?"), said("!")) == 0.0


def test_characters_are_words_where_words_are_not_set_apart() -> None:
    one, other = "今天天气很好我们去公园散步吧然后回家吃饭", "今天天气很好我们去公园散步吧然后回家睡觉"
    assert 0.7 < jaccard(said(one), said(other)) < 1


def test_the_system_message_is_not_compared() -> None:
    shared = " ".join(VOCABULARY[:200])
    assert similarity(row("a", "one two three four five", shared), row("b", "six seven eight nine ten", shared)) < 0.2
    assert similarity(row("a", "one two three four five", shared), row("b", "one two three four five")) == 1.0


# --- Signatures -----------------------------------------------------------------------------------

texts = st.lists(
    st.one_of(
        st.lists(st.sampled_from(["a", "bb", "ccc", "é", "今"]), max_size=12).map(" ".join),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150)
@given(texts)
def test_a_signature_depends_on_the_shingles_of_its_text_alone(found: list[str]) -> None:
    """Neither on its neighbours in the batch nor on the blanks within it."""
    batch = [folded([Message("user", text)]) for text in found]
    together, has_words = signatures.signatures(batch)
    for text, signature, some in zip(batch, together, has_words, strict=True):
        spaced = b"  " + b"  ".join(text.translate(WORDS).split()) + b" \n"
        alone, _ = signatures.signatures([spaced])
        assert (alone[0] == signature).all()
        assert bool(some) is bool(shingles(text))


def test_signatures_agree_as_far_as_shingles_do() -> None:
    rng = random.Random(5)
    for _ in range(60):
        one, other = family(rng, "x", 2, words=120, edits=8)
        found, _ = signatures.signatures([folded(one.messages), folded(other.messages)])
        assert abs(float(signatures.estimate(found[0], found[1])) - similarity(one, other)) < 0.25


def test_the_longest_texts_fit_into_a_batch_and_are_compared_by_their_beginning(tmp_path: Path) -> None:
    long = " ".join(str(n) for n in range(90_000))
    assert len(long) > MAX_BYTES
    rows = [row("a", long), row("b", long + " and more"), row("c", long[::-1])]
    paths = {"train": write(tmp_path / "train", rows[1:]), "test": write(tmp_path / "test", rows[:1])}
    found = near.across({**paths, "val": write(tmp_path / "val", [])}, 0.99)
    assert [(pair.id, pair.other_id) for pair in found.pairs] == [("a", "b")]


# --- Across sides ---------------------------------------------------------------------------------


def sides(folder: Path, **rows: list[Row]) -> dict:
    return {split: write(folder / split, rows.get(split, [])) for split in ("train", "val", "test")}


def test_pairs_on_two_sides_are_found_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for n in range(400):
        for r in family(rng, f"f{n}", 3, edits=3):
            rows[rng.choice(["train", "train", "val", "test"])].append(r)
    expected = {"val": 0, "test": 0}
    by_family: dict[str, list[tuple[str, Row]]] = {}
    for split, found in rows.items():
        for r in found:
            by_family.setdefault(r.id.split("-")[0], []).append((split, r))
    for members in by_family.values():
        for side, r in members:
            others = [o for s, o in members if s != side]
            if side != "train" and any(similarity(r, o) >= 0.8 for o in others):
                expected[side] += 1
    told: list[int] = []
    found = near.across(sides(tmp_path, **rows), 0.8, told.append)
    assert expected["test"] > 50
    assert expected["val"] > 40
    # A candidate is missed in 2 of 10,000 cases at a Jaccard of exactly 0.8; these rows are seeded.
    assert found.rows == expected
    assert sum(told) == 1200
    assert len(found.pairs) == near.SHOWN
    everything = {r.id: (split, r) for split, rs in rows.items() for r in rs}
    for pair in found.pairs:
        (split, one), (other_split, other) = everything[pair.id], everything[pair.other_id]
        assert (split, other_split) == (pair.split, pair.other_split)
        assert split != other_split
        assert pair.jaccard == round(similarity(one, other), 4) >= 0.8


def test_a_mass_of_rows_that_are_all_alike_is_counted_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = family(rng, "x", 6000, edits=1)
    found = near.across(sides(tmp_path, train=rows[:3000], test=rows[3000:5500], val=rows[5500:]), 0.8)
    assert found.rows == {"val": 500, "test": 2500}


def test_rows_without_words_and_empty_sides_are_like_nothing(tmp_path: Path) -> None:
    def wordless(row_id: str) -> Row:
        return Row(row_id, (Message("user", "??"), Message("assistant", "!")))

    found = near.across(sides(tmp_path, train=[wordless("a")], test=[wordless("b")]), 0.8)
    assert (found.rows, found.pairs) == ({"val": 0, "test": 0}, [])
    assert near.across(sides(tmp_path, train=[wordless("a")]), 0.8).pairs == []
    assert near.across(sides(tmp_path, test=[wordless("a")]), 0.8).pairs == []


# --- Within one file ------------------------------------------------------------------------------


def clusters(path: Path, rows: list[Row], threshold: float = 0.8) -> set[frozenset[str]]:
    above = list(range(len(rows)))

    def top(n: int) -> int:
        while above[n] != n:
            n = above[n]
        return n

    def join(one: int, other: int) -> None:
        above[top(one)] = top(other)

    near.within(write(path, rows), threshold, lambda a, b: top(a) == top(b), join)
    found: dict[int, set[str]] = {}
    for n, r in enumerate(rows):
        found.setdefault(top(n), set()).add(r.id)
    return {frozenset(ids) for ids in found.values()}


def by_brute_force(rows: list[Row], threshold: float = 0.8) -> set[frozenset[str]]:
    found = [frozenset([r.id]) for r in rows]
    for one, other in combinations(rows, 2):
        if similarity(one, other) >= threshold:
            a = next(c for c in found if one.id in c)
            b = next(c for c in found if other.id in c)
            found = [c for c in found if c not in (a, b)] + [a | b]
    return set(found)


def test_clusters_are_what_hangs_together_whatever_the_order(tmp_path: Path) -> None:
    rng = random.Random(8)
    rows = [r for n in range(40) for r in family(rng, f"f{n}", rng.randrange(1, 5), edits=3)]
    expected = by_brute_force(rows)
    assert 1 < len(expected) < len(rows)
    assert sum(len(c) > 2 for c in expected) > 5
    for _ in range(4):
        assert clusters(tmp_path / "rows", rows) == expected
        rng.shuffle(rows)


def test_a_mass_of_rows_that_are_all_alike_is_one_cluster(tmp_path: Path) -> None:
    rows = family(random.Random(1), "x", 3000, edits=1)
    assert len(clusters(tmp_path / "rows", rows)) == 1


def test_no_rows_are_no_clusters(tmp_path: Path) -> None:
    assert clusters(tmp_path / "rows", []) == set()
    assert len(clusters(tmp_path / "rows", [row("a", "b")])) == 1


# --- Everywhere the same --------------------------------------------------------------------------


def test_signatures_are_the_same_in_every_process() -> None:
    """They decide what is found: salted hashes would find other pairs in every run."""
    code = (
        "import zlib; from solotune.dataset.signatures import signatures;"
        "print(zlib.crc32(signatures([b'a b c d e f', 'déjà vu'.encode()])[0].tobytes()))"
    )
    outputs = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        outputs.add(done.stdout)
    assert outputs == {"1907087569\n"}


def test_signatures_of_a_batch_have_the_shape_that_was_promised() -> None:
    found, has_words = signatures.signatures([b"a b", b""])
    assert found.shape == (2, signatures.PERMUTATIONS)
    assert found.dtype == np.uint8
    assert signatures.bands(found).shape == (2, signatures.BANDS)
    assert has_words.tolist() == [True, False]
