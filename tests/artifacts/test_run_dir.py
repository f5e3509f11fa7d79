from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from solotune.artifacts.files import write_json
from solotune.artifacts.lock import held
from solotune.artifacts.measured import EXPORT_SCHEMA_VERSION, ExportRecord
from solotune.artifacts.run_dir import RunDir, new_run_id, run_ids
from solotune.artifacts.run_manifest import RunManifest
from solotune.errors import ArtifactError


def begin(root: Path, run_id: str) -> RunDir:
    run = RunDir.new(root, "x", run_id)
    with run.beginning() as staged:
        staged.config.write_text("config: here\n")
    return run


def make(root: Path, *ids: str) -> None:
    for run_id in ids:
        begin(root, run_id)


A, B, C = "20260101-000000-a-aaaaaa", "20260101-000000-a-bbbbbb", "20260202-000000-b-cccccc"


def test_a_run_is_found_by_id_by_unique_prefix_and_as_the_latest(tmp_path: Path) -> None:
    make(tmp_path, A, B, C)
    assert RunDir.find(tmp_path, B).run_id == B
    assert RunDir.find(tmp_path, "202602").run_id == C
    assert RunDir.find(tmp_path, "latest").run_id == C
    assert RunDir.find(tmp_path, f"{tmp_path}/{A}/").run_id == A


@pytest.mark.parametrize(("wanted", "said"), [("20260101", "several runs begin"), ("1999", "no run begins")])
def test_an_unclear_name_lists_what_there_is(tmp_path: Path, wanted: str, said: str) -> None:
    make(tmp_path, A, B, C)
    with pytest.raises(ArtifactError, match=f"{said}.*{B}"):
        RunDir.find(tmp_path, wanted)


@pytest.mark.parametrize("wanted", ["../outside", "/etc", "..", ""])
def test_a_name_never_leaves_the_folder(tmp_path: Path, wanted: str) -> None:
    make(tmp_path / "runs", A, B)
    (tmp_path / "outside").mkdir()
    with pytest.raises(ArtifactError):
        RunDir.find(tmp_path / "runs", wanted)


def test_without_runs_the_way_to_the_first_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="invoke train"):
        RunDir.find(tmp_path / "runs", "latest")


def test_a_run_is_never_made_twice(tmp_path: Path) -> None:
    make(tmp_path, A)
    with pytest.raises(ArtifactError, match=f"exists already.*--resume {A}"):
        make(tmp_path, A)


def test_ids_sort_by_time_and_other_folders_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, C, A)
    (tmp_path / "notes").mkdir()
    assert run_ids(tmp_path) == [A, C]
    assert new_run_id("smoke").split("-")[2] == "smoke"


def test_a_folder_without_a_manifest_says_which_command_finishes_it(tmp_path: Path) -> None:
    make(tmp_path, A)
    with pytest.raises(ArtifactError, match=r"unfinished: manifest.json is missing.*invoke train"):
        RunDir.find(tmp_path, A).finished()


def test_a_run_that_is_training_is_said_to_be_and_not_to_be_resumed(tmp_path: Path) -> None:
    run = begin(tmp_path, A)
    run.write_manifest(RunManifest(1, A, "", "", 0, "strict", "", {}, {}, "", {}, "", {}))
    with pytest.raises(ArtifactError, match=f"hasn't finished training.*invoke train --resume {A}"):
        run.finished()
    hold = "import sys; from pathlib import Path; from solotune.artifacts.lock import held\n"
    hold += "with held(Path(sys.argv[1]), 'train'): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, run.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(ArtifactError, match=rf"`train` works in .*\(process {other.pid} on "):
            run.finished()
        other.communicate()
    with held(run.path, "evaluate"), pytest.raises(ArtifactError, match="hasn't finished training"):
        run.finished()


def test_a_run_that_was_killed_while_it_began_is_no_run_and_the_next_one_clears_it_away(tmp_path: Path) -> None:
    left = tmp_path / ".staged-20260101-000000-x-aaaaaa.77"
    left.mkdir(parents=True)
    (left / "config.yaml").write_text("config: he")
    assert run_ids(tmp_path) == []
    begin(tmp_path, "20260101-000001-x-bbbbbb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20260101-000001-x-bbbbbb"]


def test_a_run_that_fails_to_begin_leaves_nothing(tmp_path: Path) -> None:
    run = RunDir.new(tmp_path, "x", "20260101-000001-x-bbbbbb")

    def begin_on_a_full_disk() -> None:
        with run.beginning() as staged:
            staged.config.write_text("config: he")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        begin_on_a_full_disk()
    assert list(tmp_path.iterdir()) == []
    with run.beginning() as staged:
        staged.config.write_text("config: here")
    with pytest.raises(ArtifactError, match=r"exists already\. Continue it with `invoke train --resume 2026"):
        RunDir.new(tmp_path, "x", run.run_id)


def test_an_export_that_was_measured_on_the_first_rows_is_told_apart(tmp_path: Path) -> None:
    """Those of today are spread over the split: what is added would be compared on other rows."""
    run_dir = RunDir(tmp_path / "one")
    run_dir.export.mkdir(parents=True)
    write_json(run_dir.export_record, ExportRecord(1, "one", 12, {}))
    with pytest.raises(ArtifactError, match=r"export.json has schema_version 1, not 2. .*`rm -r \S+one/export`"):
        run_dir.exported()
    write_json(run_dir.export_record, ExportRecord(EXPORT_SCHEMA_VERSION, "one", 12, {}))
    assert run_dir.exported() is not None
