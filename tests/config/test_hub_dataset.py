"""dataset.hub: a section within a section, pinned to a commit, replaced whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from solotune.config.load import load, resolved_yaml
from solotune.config.reference import markdown
from solotune.config.schema import HubDataset
from solotune.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE = f"""\
model: {{name_or_path: org/model, revision: {COMMIT}}}
dataset:
  raw_files: [data/*.parquet]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, hub: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, BASE + f"  hub: {hub}\n"))
    return caught.value.problems


def test_a_data_set_of_the_hub_is_read_and_written_back(tmp_path: Path) -> None:
    config = load(write(tmp_path, BASE + f"  hub: {{name: org/rows, revision: {COMMIT}}}\n"))
    assert config.dataset.hub == HubDataset(name="org/rows", revision=COMMIT)
    (tmp_path / "resolved.yaml").write_text(resolved_yaml(config))
    assert load(tmp_path / "resolved.yaml") == config
    assert load(write(tmp_path, BASE)).dataset.hub is None


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT.upper(), COMMIT[:12], COMMIT + "0"])
def test_a_revision_that_is_no_commit_is_refused_at_its_line(tmp_path: Path, revision: str) -> None:
    (problem,) = problems(tmp_path, f"{{name: org/rows, revision: {revision}}}")
    assert "c.yaml:4" in problem
    assert f"dataset.hub.revision: {revision!r} is no commit (40 hex digits, lower case)" in problem
    assert "'Files and versions'" in problem


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b/c", "https://huggingface.co/datasets/a/b", "a b"])
def test_a_name_that_is_no_id_is_refused(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, f"{{name: {name!r}, revision: {COMMIT}}}")
    assert "dataset.hub.name" in problem


def test_missing_and_unknown_keys_are_named(tmp_path: Path) -> None:
    found = problems(tmp_path, "{name: org/rows, revison: abc, split: train}")
    assert any("dataset.hub.revison: unknown key; did you mean revision?" in p for p in found)
    assert any("dataset.hub.split: unknown key" in p for p in found)
    assert any("dataset.hub.revision: required key is missing" in p for p in found)


def test_a_later_file_replaces_it_whole_or_takes_it_away(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE + f"  hub: {{name: org/rows, revision: {COMMIT}}}\n")
    taken = load(write(tmp_path, "extends: base.yaml\ndataset: {hub: null}\n"))
    assert taken.dataset.hub is None
    with pytest.raises(ConfigError, match=r"dataset\.hub\.revision: required"):
        load(write(tmp_path, "extends: base.yaml\ndataset: {hub: {name: org/other}}\n"))


def test_a_single_key_can_be_set_for_one_run(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + f"  hub: {{name: org/rows, revision: {COMMIT}}}\n")
    other = "f" * 40
    assert load(path, [f"dataset.hub.revision={other}"]).dataset.hub == HubDataset(name="org/rows", revision=other)


def test_the_reference_lists_its_keys() -> None:
    assert "| `dataset.hub` | `null` |" in markdown()
    assert "| `dataset.hub.revision` | required |" in markdown()
