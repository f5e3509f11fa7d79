"""prepare --check: a line for each check, exit 2 with the way out where one fails, and nothing written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from solotune import cli
from solotune.artifacts.files import FileRecord
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig
from solotune.errors import ArtifactError
from solotune.stages import prepare

SPLITS = Path("data/splits")
YAML = """\
dataset:
  raw_files: [raw.jsonl]
  val_fraction: 0.2
  test_fraction: 0.2
  quarantine: keep_going
  dedup: {near: NEAR}
model: {name_or_path: some/model, revision: "0000000000000000000000000000000000000000"}
"""
CHECKS = ["files", "raw files", "config", "rows", "counts", "ids", "declared splits", "groups", "duplicates"]


def config(near: str = "report", **dataset: Any) -> RunConfig:
    base = {"raw_files": ["raw.jsonl"], "val_fraction": 0.2, "test_fraction": 0.2, "quarantine": "keep_going"}
    model = {"name_or_path": "some/model", "revision": "0" * 40}
    return RunConfig.model_validate({"dataset": {**base, "dedup": {"near": near}, **dataset}, "model": model})


def row(n: int | str, **meta: Any) -> dict:
    turns = [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]
    return {"id": f"r{n}", "messages": turns, **({"meta": meta} if meta else {})}


@pytest.fixture(autouse=True)
def prepared(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SOLOTUNE_MODELS", str(workspace / "no-models"))
    rows = [row(n) for n in range(60)] + [row("v", split="val", group="g"), row("w", group="g")]
    lines = [json.dumps(r) for r in [*rows, rows[0]]] + ["{"]
    Path("raw.jsonl").write_text("\n".join(lines) + "\n")
    prepare.run(config())
    capsys.readouterr()


def tree() -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in Path().rglob("*") if p.is_file()}


def checked(shown: str) -> dict[str, tuple[str, str]]:
    """Check -> (ok or FAIL, what it says)."""
    lines = [line.strip() for line in shown.splitlines() if line.startswith(("  ok", "  FAIL"))]
    return {
        name: (verdict, said.strip())
        for verdict, _, rest in (line.partition("  ") for line in lines)
        for name, _, said in [rest.strip().partition(":")]
    }


def test_whole_splits_pass_every_check_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    before = tree()
    prepare.check(config())
    found = checked(capsys.readouterr().out)
    assert list(found) == [*CHECKS, "near-duplicates"]
    assert {verdict for verdict, _ in found.values()} == {"ok"}
    assert found["counts"][1] == "64 in = 62 kept + 1 quarantined + 1 duplicates"
    assert found["raw files"][1] == "unchanged: 1 of 1"
    assert tree() == before


def test_raw_files_that_are_gone_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("raw.jsonl").unlink()
    prepare.check(config())
    assert checked(capsys.readouterr().out)["raw files"] == (
        "ok",
        "unchanged: 0 of 1; the others are gone and weren't compared",
    )


def test_without_splits_there_is_nothing_to_check() -> None:
    with pytest.raises(ArtifactError, match=r"no data/nowhere\. Run `invoke prepare --config CONFIG`"):
        prepare.check(config(splits_dir="data/nowhere"))
    (SPLITS / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="unfinished"):
        prepare.check(config())


def test_a_manifest_of_an_earlier_version_is_checked_too(capsys: pytest.CaptureFixture[str]) -> None:
    path = SPLITS / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for key in ("groups", "near", "report", "rows_by_file"):
        del manifest[key]
    del manifest["config"]["dedup"], manifest["config"]["hub"]
    path.write_text(json.dumps(manifest))
    prepare.check(config())
    prepare.run(config())
    assert "up to date" in capsys.readouterr().out


# --- What is found --------------------------------------------------------------------------------


def lines(split: str) -> list[dict]:
    return [json.loads(text) for text in (SPLITS / f"{split}.jsonl").read_bytes().splitlines()]


def rewrite(move: Callable[[dict[str, list[dict]]], None]) -> None:
    """Changes rows and makes the manifest fit, as a faulty prepare would."""
    rows = {split: lines(split) for split in ("train", "val", "test")}
    move(rows)
    manifest = json.loads((SPLITS / "manifest.json").read_bytes())
    for split, found in rows.items():
        path = SPLITS / f"{split}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in found))
        manifest["rows"][split] = len(found)
        record = FileRecord.of(path)
        manifest["outputs"][path.name] = {"bytes": record.bytes, "sha256": record.sha256}
    kept = sum(manifest["rows"].values())
    manifest["rows_in"] += kept - manifest["rows_kept"]
    manifest["rows_kept"] = kept
    (SPLITS / "manifest.json").write_text(json.dumps(manifest))


def twice(rows: dict) -> None:
    rows["train"].append({**row("new"), "id": rows["train"][0]["id"]})


def elsewhere(rows: dict) -> None:
    (declared,) = [r for r in rows["val"] if r["id"] == "rv"]
    rows["val"] = [r for r in rows["val"] if r.get("meta", {}).get("group") != "g"]
    rows["test"].append(declared)


def half_a_group(rows: dict) -> None:
    (moved,) = [r for r in rows["val"] if r["id"] == "rw"]
    rows["val"].remove(moved)
    rows["train"].append(moved)


def same_question(rows: dict) -> None:
    asked = rows["test"][0]["messages"][0]["content"].upper()
    rows["val"].append({"id": "x", "messages": [{"role": "user", "content": asked}, row(0)["messages"][1]]})


def same_row(rows: dict) -> None:
    said = [{**m, "content": f" {m['content']} "} for m in rows["test"][0]["messages"]]
    rows["train"].append({"id": "x", "messages": said})


@pytest.mark.parametrize(
    ("move", "failing", "says"),
    [
        (twice, {"ids"}, r"is there twice"),
        (elsewhere, {"declared splits"}, r"rv declares val and is in test"),
        (half_a_group, {"groups"}, r"rw of train is of the same group as a row of val"),
        (same_question, {"groups"}, r"x of val is of the same group as a row of test"),
        (same_row, {"groups", "duplicates"}, r"x of train says the same as a row of test"),
    ],
)
def test_rows_that_leak_fail_their_check(
    move: Callable[[dict], None], failing: set[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(move)
    before = tree()
    # What a row says twice, it nearly says.
    with pytest.raises(ArtifactError, match=r"fails \d of the checks above: .*Run `invoke prepare .* --replace`"):
        prepare.check(config("off"))
    shown = capsys.readouterr().out
    found = checked(shown)
    assert {name for name, (verdict, _) in found.items() if verdict == "FAIL"} == failing
    assert says in shown
    assert tree() == before


def test_of_many_leaks_a_few_are_shown_and_the_rest_counted(capsys: pytest.CaptureFixture[str]) -> None:
    def copies(rows: dict) -> None:
        rows["train"] += [{**r, "id": f"copy {r['id']}"} for r in rows["test"]]

    count = len(lines("test"))
    rewrite(copies)
    with pytest.raises(ArtifactError, match="groups, duplicates"):
        prepare.check(config("off"))
    said = checked(capsys.readouterr().out)["duplicates"][1]
    assert said.count("says the same") == 3
    assert said.endswith(f"and {count - 3} more")


def damage_output() -> None:
    with (SPLITS / "train.jsonl").open("ab") as file:
        file.write(b"\n")


def damage_row() -> None:
    rewrite(lambda rows: rows["train"].append({"id": 7}))


def damage_raw() -> None:
    Path("raw.jsonl").write_text("{}\n")


def damage_count() -> None:
    path = SPLITS / "manifest.json"
    path.write_text(path.read_text().replace('"rows_duplicate": 1', '"rows_duplicate": 2'))


def damage_quarantine() -> None:
    path = SPLITS / "manifest.json"
    (SPLITS / "quarantine.jsonl").write_bytes(b"")
    manifest = json.loads(path.read_bytes())
    record = FileRecord.of(SPLITS / "quarantine.jsonl")
    manifest["outputs"]["quarantine.jsonl"] = {"bytes": record.bytes, "sha256": record.sha256}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "failing", "says"),
    [
        (damage_output, ["files", "rows"], "train.jsonl has"),
        (damage_row, ["rows"], "isn't a row"),
        (damage_raw, ["raw files"], "raw.jsonl has"),
        (damage_count, ["counts"], "64 in isn't 62 kept + 1 quarantined + 2 duplicates"),
        (damage_quarantine, ["counts"], "0 lines in quarantine.jsonl, 1 rows quarantined"),
    ],
)
def test_what_is_damaged_fails_its_check(
    damage: Callable[[], None], failing: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage()
    with pytest.raises(ArtifactError, match=f"fails {len(failing)} of the checks above: {', '.join(failing)}"):
        prepare.check(config())
    shown = capsys.readouterr().out
    assert [name for name, (verdict, _) in checked(shown).items() if verdict == "FAIL"] == failing
    assert says in shown


def test_another_config_fails_its_check(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtifactError, match=r"fails 1 of the checks above: config\. .* add `--set dataset\.seed=0`"):
        prepare.check(config(seed=3))
    assert checked(capsys.readouterr().out)["config"] == ("FAIL", "seed: 0 -> 3")


def nearly(rows: dict) -> None:
    long = " ".join(f"word{n}" for n in range(80))
    for split, end in (("train", "a"), ("test", "b")):
        turns = [{"role": "user", "content": f"{split} asks"}, {"role": "assistant", "content": f"{long} {end}"}]
        rows[split].append({"id": f"near {end}", "messages": turns})


def test_near_duplicates_are_a_note_where_they_are_reported_and_a_failure_where_they_are_clustered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewrite(nearly)
    prepare.check(config())
    verdict, said = checked(capsys.readouterr().out)["near-duplicates"]
    assert verdict == "ok"
    assert said.startswith(
        "1 rows of test say almost what a row on another side says, such as near b (test) and near a"
    )
    prepare.run(config("cluster"), replace=True)
    prepare.check(config("cluster"))
    capsys.readouterr()
    rewrite(nearly)
    with pytest.raises(ArtifactError, match="fails 1 of the checks above: near-duplicates"):
        prepare.check(config("cluster"))


def test_a_cluster_on_two_sides_fails_its_check(capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(config("cluster"), replace=True)
    train, test = lines("train")[0]["id"], lines("test")[0]["id"]
    members = "".join(json.dumps({"id": i, "cluster": "c" * 32}) + "\n" for i in (train, test))
    (SPLITS / "clusters.jsonl").write_text(members)
    with pytest.raises(ArtifactError, match="files, clusters"):
        prepare.check(config("cluster"))
    assert "cluster cccccccccccc, has others elsewhere" in capsys.readouterr().out


def test_a_line_that_is_no_cluster_is_damage(capsys: pytest.CaptureFixture[str]) -> None:
    prepare.run(config("cluster"), replace=True)
    (SPLITS / "clusters.jsonl").write_text("junk\n")
    with pytest.raises(ArtifactError, match="fails 2 of the checks above: files, rows"):
        prepare.check(config("cluster"))
    assert "clusters.jsonl has a line that isn't a row's cluster" in capsys.readouterr().out


def test_a_raw_file_that_came_fails_its_check(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = config(raw_files=["*.jsonl"])
    prepare.run(wanted, replace=True)
    Path("new.jsonl").write_text(json.dumps(row("new")) + "\n")
    with pytest.raises(ArtifactError, match="fails 1 of the checks above: raw files"):
        prepare.check(wanted)
    assert "not among those that were read: new.jsonl" in capsys.readouterr().out


# --- As a command ---------------------------------------------------------------------------------


def test_the_command_exits_with_2_and_the_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.yaml").write_text(YAML.replace("NEAR", "off"))
    assert cli.main(["prepare", "--config", "x.yaml", "--check"]) == 0
    damage_output()
    assert cli.main(["prepare", "--config", "x.yaml", "--check"]) == 2
    assert "--replace" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["prepare", "--config", "x.yaml", "--check", "--replace"])
    assert SplitsDir(SPLITS).is_complete
