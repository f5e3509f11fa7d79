"""A splits folder with a manifest is whole; one without is unfinished."""

import os
from pathlib import Path

import msgspec
import pytest

from solotune.artifacts.files import FileRecord, record_files, write_text
from solotune.artifacts.splits_dir import SplitsDir, SplitsManifest
from solotune.config.schema import DatasetConfig
from solotune.errors import ArtifactError

CONFIG = DatasetConfig(raw_files=("a.jsonl",))


def publish(splits: SplitsDir, text: str = "x", dataset: DatasetConfig = CONFIG, version: int = 1) -> SplitsManifest:
    with splits.staging() as staged:
        for name in ("train.jsonl", "val.jsonl", "test.jsonl", "quarantine.jsonl"):
            write_text(staged / name, text)
        manifest = SplitsManifest(
            schema_version=version,
            config=dataset.model_dump(mode="json"),
            inputs={},
            outputs=record_files(staged),
            rows_in=3,
            rows_kept=3,
            rows_quarantined=0,
            rows_duplicate=0,
            rows={"train": 1, "val": 1, "test": 1},
            reasons={},
            tags={},
            solotune="0",
        )
        return splits.publish(staged, manifest, report=f"<p>{text}")


def names(splits: SplitsDir) -> list[str]:
    return sorted(p.name for p in splits.path.iterdir())


@pytest.fixture
def splits(tmp_path: Path) -> SplitsDir:
    return SplitsDir(tmp_path / "data" / "splits")


def test_what_is_published_is_opened(splits: SplitsDir) -> None:
    assert not splits.is_complete
    manifest = publish(splits)
    assert splits.is_complete
    assert splits.open(CONFIG) == splits.manifest() == manifest
    assert names(splits) == [
        "manifest.json", "quarantine.jsonl", "report.html", "test.jsonl", "train.jsonl", "val.jsonl",
    ]  # fmt: skip
    assert splits.split("val") == splits.path / "val.jsonl"


def test_an_unfinished_folder_says_which_command_finishes_it(splits: SplitsDir) -> None:
    with pytest.raises(ArtifactError, match=r"no .*splits\. Run `invoke prepare --config CONFIG`"):
        splits.open(CONFIG)
    with splits.staging():
        pass
    with pytest.raises(ArtifactError, match=r"unfinished: manifest\.json is missing\. Run `invoke prepare"):
        splits.open(CONFIG)


def test_files_changed_by_hand_are_noticed(splits: SplitsDir) -> None:
    publish(splits)
    splits.split("test").write_bytes(b"y")
    with pytest.raises(ArtifactError, match=r"test\.jsonl was changed\. Run `.* --replace`"):
        splits.open(CONFIG)
    splits.split("test").unlink()
    with pytest.raises(ArtifactError, match=r"test\.jsonl is missing"):
        splits.open(CONFIG)


def test_another_dataset_section_is_refused_with_what_differs(splits: SplitsDir) -> None:
    publish(splits)
    with pytest.raises(ArtifactError, match=r"seed: 0 -> 5; val_fraction: 0\.05 -> 0\.2") as caught:
        splits.open(CONFIG.model_copy(update={"seed": 5, "val_fraction": 0.2}))
    assert "--replace" in caught.value.fix
    assert "dataset.splits_dir" in caught.value.fix


@pytest.mark.parametrize(
    ("made", "flags"),
    [
        ({"quarantine": "keep_going"}, "--set dataset.quarantine=keep_going"),
        ({"seed": 5, "val_fraction": 1e-05}, "--set dataset.seed=5 --set dataset.val_fraction=1e-05"),
        ({"quarantine": "it's"}, "--set 'dataset.quarantine=it'\"'\"'s'"),
        ({"quarantine": "\x1b x"}, ""),
        ({"columns": {"id": "n"}}, ""),
        ({"raw_files": ("b.jsonl",), "seed": 5}, ""),
        ({"dedup": {"near": "cluster", "threshold": 0.8}}, ""),
        ({"hub": {"name": "o/n", "revision": "0" * 40}}, ""),
        ({"splits_dir": "elsewhere"}, ""),
        ({"of_another_version": 1}, ""),
    ],
)
def test_the_flags_that_ask_for_what_was_made_are_named_where_flags_can(
    splits: SplitsDir, made: dict, flags: str
) -> None:
    manifest = publish(splits)
    splits.manifest_path.write_bytes(
        msgspec.json.encode(msgspec.structs.replace(manifest, config=manifest.config | made))
    )
    with pytest.raises(ArtifactError, match="another dataset section") as caught:
        splits.open(CONFIG)
    offered = f", add `{flags}` to this command (where it has a --config)" if flags else ""
    assert caught.value.fix == (
        f"Run `invoke prepare --config CONFIG --replace`{offered}, or give this config a dataset.splits_dir of its own"
    )


def test_the_length_policy_is_no_part_of_the_splits(splits: SplitsDir) -> None:
    publish(splits)
    assert splits.open(CONFIG.model_copy(update={"on_overflow": "drop"}))


def test_another_schema_version_is_refused(splits: SplitsDir) -> None:
    publish(splits, version=99)
    with pytest.raises(ArtifactError, match=r"has schema_version 99, this solotune reads 1\. Delete .*splits"):
        splits.open(CONFIG)


def test_a_manifest_without_the_later_fields_is_read(splits: SplitsDir) -> None:
    manifest = msgspec.to_builtins(publish(splits))
    del manifest["notes"], manifest["unread_columns"]
    splits.manifest_path.write_bytes(msgspec.json.encode(manifest))
    assert splits.manifest().notes == {}


def test_publishing_again_replaces_everything_and_what_was_rejected(splits: SplitsDir) -> None:
    publish(splits)
    write_text(splits.rejected, "old")
    publish(splits, "new")
    assert splits.split("train").read_text() == "new"
    assert not splits.rejected.exists()
    assert splits.open(CONFIG)


def test_staging_clears_what_a_killed_process_left_and_leaves_nothing(splits: SplitsDir) -> None:
    publish(splits)
    left = splits.path / ".staged-prepare.1"
    left.mkdir()
    (left / "train.jsonl").write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt), splits.staging() as staged:  # noqa: PT012
        assert not left.exists()
        assert list(staged.iterdir()) == []
        raise KeyboardInterrupt
    assert splits.open(CONFIG)
    assert not list(splits.path.glob(".staged*"))


def test_the_manifest_goes_first_and_comes_last(splits: SplitsDir, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(splits)
    steps: list[str] = []
    unlink, replace = os.unlink, os.replace
    monkeypatch.setattr(os, "unlink", lambda p, **k: (steps.append(f"unlink {Path(p).name}"), unlink(p, **k)))
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append(f"rename {Path(b).name}"), replace(a, b)))
    publish(splits, "new")
    published = steps[steps.index("unlink manifest.json") :]
    assert published[0] == "unlink manifest.json"
    assert [s for s in published if s.startswith("rename")][-1] == "rename manifest.json"
    assert published.count("rename manifest.json") == 1


def test_a_full_disk_leaves_the_old_splits_whole(splits: SplitsDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new manifest is written before the old one goes; what follows needs no space."""
    publish(splits)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("solotune.artifacts.splits_dir.write_json", full)
    with pytest.raises(OSError, match="No space"):
        publish(splits, "new")
    monkeypatch.undo()
    assert splits.open(CONFIG)
    assert splits.split("train").read_text() == "x"


def test_a_report_that_says_more_replaces_the_old_one_and_nothing_that_a_run_is_bound_to(splits: SplitsDir) -> None:
    manifest = publish(splits)
    splits.refresh_report(manifest, "<p>with token lengths")
    after = splits.open(CONFIG)
    assert splits.report.read_text() == "<p>with token lengths"
    assert after.report == FileRecord.of(splits.report) != manifest.report
    assert after.outputs == manifest.outputs


def test_a_report_that_says_the_same_is_left_alone_and_one_that_was_changed_is_written_again(
    splits: SplitsDir,
) -> None:
    manifest = publish(splits)
    before = splits.report.stat().st_mtime_ns, splits.manifest_path.stat().st_mtime_ns
    splits.refresh_report(manifest, "<p>x")
    assert (splits.report.stat().st_mtime_ns, splits.manifest_path.stat().st_mtime_ns) == before
    splits.report.write_text("<p>y")
    splits.refresh_report(manifest, "<p>x")
    assert splits.report.read_text() == "<p>x"


def test_a_process_killed_between_report_and_manifest_leaves_splits_that_open(
    splits: SplitsDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish(splits)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("solotune.artifacts.splits_dir.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            splits.refresh_report(manifest, "<p>more")
    assert splits.open(CONFIG) == manifest
    splits.refresh_report(splits.open(CONFIG), "<p>more")
    assert splits.open(CONFIG).report == FileRecord.of(splits.report)
