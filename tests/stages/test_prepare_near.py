"""Near-duplicates as people meet them: reported, or kept on one side."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import DatasetConfig, RunConfig
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError
from solotune.stages import prepare

SPLITS = Path("data/splits")


def config(near: str = "report", threshold: float = 0.8, **dataset: Any) -> RunConfig:
    dedup = {"near": near, "threshold": threshold}
    dataset = {"raw_files": ["*.jsonl"], "val_fraction": 0.2, "test_fraction": 0.2, "dedup": dedup, **dataset}
    return RunConfig.model_validate({"dataset": dataset, "model": {"name_or_path": "some/model", "revision": "0" * 40}})


def row(n: int, family: int, split: str = "") -> bytes:
    """Rows of one family differ in their question's number and in the last word."""
    answer = " ".join(f"w{family * 1000 + i}" for i in range(60)) + f" end{n}"
    turns = [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": answer}]
    meta = {"meta": {"split": split}} if split else {}
    return json.dumps({"id": f"r{n}", "messages": turns, **meta}).encode()


@pytest.fixture(autouse=True)
def rows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """40 families of three rows that are nearly the same."""
    monkeypatch.setenv("SOLOTUNE_MODELS", str(workspace / "no-models"))
    found = [row(n, n % 40) for n in range(120)]
    write(found)
    return found


def write(rows: list[bytes], name: str = "raw.jsonl") -> None:
    Path(name).write_bytes(b"\n".join(rows) + b"\n")


def sides() -> dict[str, str]:
    return {r.id: s for s in ("train", "val", "test") for r in read_rows(SPLITS / f"{s}.jsonl")}


def family_of(row_id: str) -> int:
    return int(row_id[1:]) % 40


def divided(where: dict[str, str]) -> dict[str, int]:
    """Rows of val and test that have one of their family on another side."""
    found = {"val": 0, "test": 0}
    for row_id, side in where.items():
        others = {s for other, s in where.items() if family_of(other) == family_of(row_id)} - {side}
        if side != "train" and others:
            found[side] += 1
    return found


def test_near_duplicates_across_splits_are_reported_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert DatasetConfig(raw_files=("x",)).dedup == config().dataset.dedup
    manifest = prepare.run(config()).manifest()
    expected = divided(sides())
    assert manifest.near is not None
    assert manifest.near.rows == expected
    assert min(expected.values()) > 3
    warning = capsys.readouterr().err
    assert f"{expected['val']} of {manifest.rows['val']} rows of val and {expected['test']} of" in warning
    assert "dataset.dedup.near: cluster" in warning
    pairs = [json.loads(line) for line in (SPLITS / "near_duplicates.jsonl").read_bytes().splitlines()]
    assert len(pairs) == 20
    for pair in pairs:
        assert list(pair) == ["id", "split", "other_id", "other_split", "jaccard"]
        assert family_of(pair["id"]) == family_of(pair["other_id"])
        assert (sides()[pair["id"]], sides()[pair["other_id"]]) == (pair["split"], pair["other_split"])
        assert 0.8 <= pair["jaccard"] < 1


def test_the_report_moves_no_row_and_off_writes_none_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(config())
    reported = {p.name: p.read_bytes() for p in SPLITS.glob("*.jsonl")}
    prepare.run(config("off"), replace=True)
    assert {p.name: p.read_bytes() for p in SPLITS.glob("*.jsonl")} == {
        name: data for name, data in reported.items() if name != "near_duplicates.jsonl"
    }
    assert SplitsDir(SPLITS).manifest().near is None
    # Whether somebody looks for them decides nothing: no other splits.
    assert SplitsDir(SPLITS).open(config("report", 0.9).dataset)
    with pytest.raises(ArtifactError, match=r"dedup: 'no cluster' -> 'near cluster, threshold 0\.8'"):
        SplitsDir(SPLITS).open(config("cluster").dataset)


def test_clusters_lie_on_one_side_and_are_written_down(capsys: pytest.CaptureFixture[str]) -> None:
    manifest = prepare.run(config("cluster")).manifest()
    where = sides()
    assert divided(where) == {"val": 0, "test": 0}
    assert all(manifest.rows.values())
    assert manifest.near is not None
    assert (manifest.near.clusters, manifest.near.clustered_rows) == (40, 120)
    assert manifest.near.rows == {"val": 0, "test": 0}
    assert manifest.groups == manifest.rows
    members = [json.loads(line) for line in (SPLITS / "clusters.jsonl").read_bytes().splitlines()]
    by_cluster: dict[str, set[str]] = {}
    for member in members:
        by_cluster.setdefault(member["cluster"], set()).add(member["id"])
    assert sorted(map(sorted, by_cluster.values())) == sorted(
        sorted(f"r{n}" for n in range(f, 120, 40)) for f in range(40)
    )
    assert "clusters.jsonl" in manifest.outputs
    assert "120 rows in 40 clusters" in capsys.readouterr().out
    prepare.run(config("report"), replace=True)
    assert not (SPLITS / "clusters.jsonl").exists()


def test_clusters_do_not_depend_on_the_order_of_the_rows(rows: list[bytes]) -> None:
    prepare.run(config("cluster"))
    where, written = sides(), (SPLITS / "clusters.jsonl").read_bytes().splitlines()
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        write(rows)
        prepare.run(config("cluster"), replace=True)
        assert sides() == where
        assert sorted((SPLITS / "clusters.jsonl").read_bytes().splitlines()) == sorted(written)


def test_a_new_row_moves_at_most_its_own_cluster_and_most_clusters_stay(rows: list[bytes]) -> None:
    """What clusters cost: a row that comes may lead its cluster, and take it to where it would lie alone."""
    prepare.run(config("cluster"))
    before = sides()
    write([row(n, n % 40) for n in range(120, 140)], "more.jsonl")
    prepare.run(config("cluster"), replace=True)
    after = sides()
    moved = {family_of(i) for i in before if after[i] != before[i]}
    assert 0 < len(moved) < 12
    assert moved <= set(range(20))


def test_near_duplicates_declared_for_two_sides_are_refused_when_they_are_to_be_kept_together() -> None:
    write([row(n, n % 40, {0: "test", 40: "train"}.get(n, "")) for n in range(120)])
    prepare.run(config())
    with pytest.raises(DataError, match=r"near-duplicates, which .*: raw\.jsonl:1 says test, raw\.jsonl:41 says train"):
        prepare.run(config("cluster"), replace=True)
    assert SplitsDir(SPLITS).open(config().dataset)


def test_a_declared_split_holds_for_the_whole_cluster() -> None:
    write([row(n, n % 40, "test" if n == 80 else "") for n in range(120)])
    prepare.run(config("cluster"))
    assert {sides()[f"r{n}"] for n in (0, 40, 80)} == {"test"}


def test_the_threshold_decides() -> None:
    assert prepare.run(config("cluster", threshold=1.0)).manifest().near.clusters == 0  # type: ignore[union-attr]
    assert (SPLITS / "clusters.jsonl").read_bytes() == b""
    for threshold in (0.5, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            config(threshold=threshold)


def test_groups_are_counted_by_split() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    lines = [
        json.dumps(
            {"id": f"b{n}", "messages": [{**turns[0], "content": f"q{n}"}, turns[1]], "meta": {"group": f"g{n % 30}"}}
        )
        for n in range(90)
    ]
    Path("raw.jsonl").write_text("\n".join(lines) + "\n")
    manifest = prepare.run(config("off")).manifest()
    assert sum(manifest.groups.values()) == 30
    assert {split: rows // 3 for split, rows in manifest.rows.items()} == manifest.groups


def test_a_column_group_of_a_table_is_a_declared_group() -> None:
    Path("t.csv").write_text("prompt,completion,group\n" + "".join(f"q{n},a,g{n % 30}\n" for n in range(90)))
    manifest = prepare.run(config("off", raw_files=["t.csv"], format="prompt_completion")).manifest()
    assert sum(manifest.groups.values()) == 30
    assert manifest.unread_columns == {}
