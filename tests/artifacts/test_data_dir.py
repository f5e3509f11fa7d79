"""A fetched data set: which of its files a config's patterns stand for, and what is said when they aren't there."""

from __future__ import annotations

from pathlib import Path

import pytest

from solotune.artifacts.data_dir import DataDir, DataManifest, matching, raw_files
from solotune.artifacts.files import write_text
from solotune.config.schema import DatasetConfig, HubDataset
from solotune.errors import ArtifactError, DataError

HUB = HubDataset(name="Org/My_Rows", revision="0123456789abcdef" * 2 + "01234567")
OFFERED = ["a.jsonl", "data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet", "deep/er/b.jsonl"]


def dataset(*patterns: str) -> DatasetConfig:
    return DatasetConfig(raw_files=patterns, hub=HUB)


def add(folder: DataDir, names: list[str], known: DataManifest | None = None) -> DataManifest:
    staged = folder.path.parent / "staged"
    for name in names:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(staged / name, f"rows of {name}\n")
    folder.add(staged, known or DataManifest(1, HUB.name, HUB.revision, {}, OFFERED, "0"))
    return folder.open()


@pytest.fixture
def folder(workspace: Path) -> DataDir:
    return DataDir.of(HUB)


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["a.jsonl"], ["a.jsonl"]),
        (["*.jsonl"], ["a.jsonl"]),
        (["**/*.jsonl"], ["a.jsonl", "deep/er/b.jsonl"]),
        (["data/train-?.parquet"], ["data/train-0.parquet", "data/train-1.parquet"]),
        (["data/train-*", "data/*"], ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet"]),
        (["deep/**"], ["deep/er/b.jsonl"]),
        (["d*/e*/b.jsonl"], ["deep/er/b.jsonl"]),
    ],
)
def test_a_pattern_means_what_it_means_for_files_on_disk(patterns: list[str], found: list[str]) -> None:
    assert matching("x", OFFERED, patterns) == found


@pytest.mark.parametrize("pattern", ["d*.parquet", "a?jsonl/", "*", "A.jsonl", "/a.jsonl"])
def test_a_star_stays_in_its_folder_and_a_dot_is_a_dot(pattern: str) -> None:
    offered = [*OFFERED, "axjsonl"] if pattern != "*" else OFFERED[1:]
    with pytest.raises(DataError, match=r"no file of the data set x is .*It has "):
        matching("x", offered, [pattern])


def test_names_with_brackets_are_names() -> None:
    assert matching("x", ["rows[1].jsonl", "rows1.jsonl"], ["rows[1].jsonl"]) == ["rows[1].jsonl"]


def test_each_pattern_must_stand_for_something() -> None:
    with pytest.raises(DataError, match=r"is valid\.jsonl\. It has a\.jsonl, .* and 2 more"):
        matching("Org/x", [*OFFERED, "b.jsonl", "z.csv"], ["a.jsonl", "valid.jsonl"])
    with pytest.raises(DataError, match=r"It has no \.jsonl, \.json, \.csv, \.tsv or \.parquet"):
        matching("Org/x", [], ["*.jsonl"])


def test_without_a_hub_the_patterns_are_those_of_the_config() -> None:
    assert raw_files(DatasetConfig(raw_files=("data/raw/*.jsonl",))) == ("data/raw/*.jsonl",)


def test_the_folder_is_named_after_data_set_and_commit(folder: DataDir) -> None:
    assert folder.path == Path("data/hub/org-my_rows--0123456789ab")


def test_fetched_files_are_what_prepare_reads(folder: DataDir) -> None:
    add(folder, ["data/train-0.parquet", "data/train-1.parquet"])
    assert raw_files(dataset("data/train-*.parquet")) == (
        f"{folder.path}/data/train-0.parquet",
        f"{folder.path}/data/train-1.parquet",
    )


def test_what_isnt_there_says_fetch(folder: DataDir) -> None:
    with pytest.raises(ArtifactError, match=r"Org/My_Rows hasn't been fetched\. Run `invoke fetch --config CONFIG`"):
        raw_files(dataset("a.jsonl"))
    folder.path.mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"unfinished: manifest\.json is missing\. Run `invoke fetch"):
        raw_files(dataset("a.jsonl"))
    add(folder, ["a.jsonl"])
    with pytest.raises(ArtifactError, match=r"deep/er/b\.jsonl was not fetched.*Run `invoke fetch"):
        raw_files(dataset("**/*.jsonl"))


def test_files_that_come_later_leave_the_earlier_ones(folder: DataDir) -> None:
    known = add(folder, ["a.jsonl"])
    both = add(folder, ["deep/er/b.jsonl"], known)
    assert sorted(both.files) == ["a.jsonl", "deep/er/b.jsonl"]
    assert both.files["a.jsonl"] == known.files["a.jsonl"]
    assert raw_files(dataset("**/*.jsonl")) == (f"{folder.path}/a.jsonl", f"{folder.path}/deep/er/b.jsonl")


def test_the_manifest_comes_last(folder: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before it, the folder is unfinished; with an earlier one, it is what it was."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("solotune.artifacts.data_dir.write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            add(folder, ["a.jsonl"])
        assert not folder.is_complete
    known = add(folder, ["a.jsonl"])
    with monkeypatch.context() as patch:
        patch.setattr("solotune.artifacts.data_dir.write_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            add(folder, ["deep/er/b.jsonl"], known)
    assert folder.open() == known


def test_a_cut_file_is_noticed(folder: DataDir) -> None:
    add(folder, ["a.jsonl"])
    (folder.path / "a.jsonl").write_text("ro")
    with pytest.raises(ArtifactError, match=r"a\.jsonl has 2 bytes instead of 16\. Delete that folder and run"):
        raw_files(dataset("a.jsonl"))
