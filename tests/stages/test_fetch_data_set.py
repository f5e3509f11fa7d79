"""A data set of the hub: what fetch brings, what it never brings, and each refusal in one line."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import make_config
from tests.stages.hub import COMMIT, NAME, Hub, serving

from solotune.artifacts.data_dir import DataDir
from solotune.artifacts.lock import held
from solotune.config.schema import HubDataset
from solotune.errors import ArtifactError, DataError
from solotune.stages import prepare
from solotune.stages.fetch import data_set

PINNED = HubDataset(name=NAME, revision=COMMIT)


def rows(prefix: str, count: int) -> bytes:
    lines = [
        {
            "id": f"{prefix}-{i}",
            "messages": [
                {"role": "user", "content": f"What is {prefix} {i}?"},
                {"role": "assistant", "content": f"Number {i}."},
            ],
        }
        for i in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


FILES = {
    "README.md": b"# rows\n",
    "rows.py": b"raise SystemExit('a loading script ran')\n",
    "model.pkl": b"\x80\x04.",
    "data/train-0.jsonl": rows("train", 60),
    "data/train-1.jsonl.gz": gzip.compress(rows("more", 40), mtime=0),
    "data/test.jsonl": rows("test", 20),
    "../outside.jsonl": rows("outside", 1),
    "data/../../outside.jsonl": rows("outside", 1),
    ".hidden/rows.jsonl": rows("hidden", 1),
    "data/\u202elnosj.jsonl": rows("bidi", 1),
}


@pytest.fixture
def hub(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's client, itself and whole, against a server of this machine."""
    with serving(Hub(dict(FILES))) as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield hub


def brought() -> list[str]:
    return sorted(p.relative_to("data/hub").as_posix() for p in Path("data/hub").rglob("*") if p.is_file())


def test_only_the_files_that_were_asked_for_come(hub: Hub) -> None:
    folder = data_set.bring(PINNED, ("data/train-*",))
    manifest = folder.open()
    assert list(manifest.files) == ["data/train-0.jsonl", "data/train-1.jsonl.gz"]
    assert (folder.path / "data/train-0.jsonl").read_bytes() == FILES["data/train-0.jsonl"]
    assert brought() == [
        f"org-rows--{COMMIT[:12]}/{name}" for name in ("data/train-0.jsonl", "data/train-1.jsonl.gz", "manifest.json")
    ]
    assert (manifest.name, manifest.revision) == (NAME, COMMIT)


@pytest.mark.parametrize("pattern", ["**/*", "**"])
def test_neither_scripts_nor_pickles_nor_names_that_lead_elsewhere_ever_come(hub: Hub, pattern: str) -> None:
    manifest = data_set.bring(PINNED, (pattern,)).open()
    assert (
        list(manifest.files) == ["data/test.jsonl", "data/train-0.jsonl", "data/train-1.jsonl.gz"] == manifest.offered
    )
    assert not list(Path().rglob("*outside*"))
    assert not [path for path in hub.asked if "outside" in path or "rows.py" in path or "pkl" in path]


def test_the_second_time_nothing_is_asked(hub: Hub) -> None:
    data_set.bring(PINNED, ("data/*.jsonl",))
    hub.asked.clear()
    data_set.bring(PINNED, ("data/*.jsonl",))
    data_set.bring(PINNED, ("data/test.jsonl",))
    assert hub.asked == []


def test_files_that_a_later_config_wants_come_beside_the_others(hub: Hub) -> None:
    folder = data_set.bring(PINNED, ("data/test.jsonl",))
    before = (folder.path / "data/test.jsonl").stat().st_mtime_ns
    data_set.bring(PINNED, ("data/*.jsonl",))
    assert list(folder.open().files) == ["data/test.jsonl", "data/train-0.jsonl"]
    assert (folder.path / "data/test.jsonl").stat().st_mtime_ns == before


def test_a_token_is_taken_from_the_environment_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    data_set.bring(PINNED, ("data/test.jsonl",))
    assert hub.tokens == {None}
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    data_set.bring(PINNED, ("data/*.jsonl",))
    assert hub.tokens == {None, "Bearer hf_secret"}


def refused(name: str = NAME, revision: str = COMMIT, patterns: tuple[str, ...] = ("data/*",)) -> str:
    """The one line with which fetch refuses; nothing is left on the disk."""
    with pytest.raises(DataError) as caught:
        data_set.bring(HubDataset(name=name, revision=revision), patterns)
    assert brought() == [] if Path("data/hub").exists() else True
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_of_two_fetches_of_data_the_second_is_told(hub: Hub) -> None:
    Path("data/hub").mkdir(parents=True)
    with held(Path("data/hub"), "fetch (other/rows)"), pytest.raises(ArtifactError, match=r"fetch \(other/rows\)"):
        data_set.bring(PINNED, ("data/train-*",))
    assert not [name for name in brought() if name.endswith((".jsonl", ".gz"))]


def test_an_unknown_data_set(hub: Hub) -> None:
    assert refused("org/other") == (
        "the hub has no data set org/other (or it is private). Check dataset.hub.name; private ones need HF_TOKEN"
    )


def test_a_commit_that_the_data_set_doesnt_have(hub: Hub) -> None:
    assert f"has no commit {'0' * 40}. Check dataset.hub.revision" in refused(revision="0" * 40)


def test_a_gated_data_set(hub: Hub) -> None:
    hub.refusal = "GatedRepo"
    assert "org/rows is gated. Accept its terms on its page on the hub and set HF_TOKEN" in refused()


def test_patterns_that_match_nothing(hub: Hub) -> None:
    said = refused(patterns=("train/*.parquet",))
    assert "no file of the data set org/rows is train/*.parquet. It has data/test.jsonl, data/train-0.jsonl" in said


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused()
    assert "the hub can't be reached for org/rows@abcdef012345" in said
    assert said.endswith("or bring the files yourself, and name them in dataset.raw_files with dataset.hub: null")


@pytest.mark.slow  # the client tries five times
def test_an_address_where_nobody_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "the hub can't be reached for org/rows@" in refused()


def test_a_fetch_that_fails_on_its_way_leaves_nothing_and_the_next_one_finishes(hub: Hub) -> None:
    hub.refusal = "GatedRepo"
    refused(patterns=("data/*.jsonl",))
    hub.refusal = ""
    assert len(data_set.bring(PINNED, ("data/*.jsonl",)).open().files) == 2


def test_a_file_that_is_listed_and_doesnt_come_is_an_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_set, "_offered", lambda _: {"data/test.jsonl": 1, "data/gone.jsonl": 1})
    assert "the hub listed data/gone.jsonl in org/rows and didn't deliver it" in refused()


def test_what_a_killed_fetch_left_is_cleared_away(hub: Hub) -> None:
    left = Path("data/hub/.staged-org-rows--abcdef012345.1/data")
    left.mkdir(parents=True)
    (left / "train-0.jsonl").write_bytes(b"half")
    data_set.bring(PINNED, ("data/test.jsonl",))
    assert not list(Path("data/hub").glob(".staged*"))


def test_a_disk_that_is_too_small_is_told_before_anything_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(ArtifactError, match=r"org/rows needs .* GiB in data/hub, where 0\.0 GiB are free"):
        data_set.bring(PINNED, ("data/*",))
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_prepare_reads_what_was_fetched_and_says_where_it_is_from(hub: Hub) -> None:
    config = make_config(
        dataset={
            "hub": {"name": NAME, "revision": COMMIT},
            "raw_files": ["data/train-*"],
            "val_fraction": 0.1,
            "test_fraction": 0.1,
        }
    )
    with pytest.raises(ArtifactError, match=r"org/rows hasn't been fetched\. Run `invoke fetch"):
        prepare.run(config)
    data_set.bring(PINNED, ("data/train-*",))
    splits = prepare.run(config)
    manifest = splits.open(config.dataset)
    folder = DataDir.of(PINNED).path
    assert manifest.rows_by_file == {f"{folder}/data/train-0.jsonl": 60, f"{folder}/data/train-1.jsonl.gz": 40}
    assert COMMIT in splits.report.read_text()
    assert not Path("data/raw").exists()


def test_the_command_brings_it_with_nothing_but_the_addresses_of_the_hub_changed(workspace: Path) -> None:
    """In a process of its own, as people call it; the base model isn't there, which ends it after the data set."""
    Path("c.yaml").write_text(
        "device: cpu\n"
        f"dataset: {{hub: {{name: {NAME}, revision: {COMMIT}}}, raw_files: [data/*.jsonl]}}\n"
        "model: {name_or_path: nowhere, source: folder}\n"
    )
    with serving(Hub(dict(FILES))) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "solotune", "fetch", "--config", "c.yaml"],
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(workspace / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "org/rows: 2 files brought" in done.stdout, done.stderr
    assert "nowhere is not a folder" in done.stderr
    assert done.returncode == 2
    assert len(DataDir.of(PINNED).open().files) == 2
