"""prepare and its report: there with the splits, filled in once there is a base model, and no part of what binds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import make_config

from solotune.artifacts.files import FileRecord
from solotune.config.schema import RunConfig
from solotune.stages import fetch, prepare


@pytest.fixture
def config(workspace: Path, tiny_model: Path) -> RunConfig:
    raw = Path("data/raw/rows.jsonl")
    raw.parent.mkdir(parents=True)
    with raw.open("w") as file:
        for i in range(40):
            turns = [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i}!"}]
            file.write(json.dumps({"id": f"r{i}", "messages": turns, "meta": {"tags": ["<b>"]}}) + "\n")
        file.write('{"id": "bad", "messages": []}\n')
    return make_config(
        dataset={"raw_files": [str(raw)], "quarantine": "keep_going", "val_fraction": 0.2, "test_fraction": 0.2},
        model={"name_or_path": str(tiny_model), "source": "folder"},
    )


def test_the_report_lies_beside_the_splits_and_the_manifest_knows_it(config: RunConfig) -> None:
    splits = prepare.run(config)
    manifest = splits.open(config.dataset)
    assert manifest.report == FileRecord.of(splits.report)
    assert manifest.rows_by_file == {"data/raw/rows.jsonl": 41}
    html = splits.report.read_text()
    assert "data/raw/rows.jsonl:41" in html
    assert "the base model hasn't been fetched" in html
    assert "<b>" not in html


def test_the_same_command_fills_the_lengths_in_once_the_base_model_is_there(config: RunConfig) -> None:
    before = prepare.run(config).manifest()
    fetch.run(config)
    splits = prepare.run(config)
    after = splits.open(config.dataset)
    html = splits.report.read_text()
    assert "the base model hasn't been fetched" not in html
    assert html.count("<svg") == 3
    assert after.report == FileRecord.of(splits.report)
    assert after.outputs == before.outputs, "a run that was trained on these rows can still be evaluated"


def test_made_again_it_has_the_same_bytes(config: RunConfig) -> None:
    first = prepare.run(config).report.read_bytes()
    assert prepare.run(config, replace=True).report.read_bytes() == first


def test_an_interrupted_count_of_tokens_leaves_splits_and_a_report(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "_token_lengths", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(config)
    splits = prepare.SplitsDir(Path(config.dataset.splits_dir))
    assert splits.open(config.dataset).report == FileRecord.of(splits.report)
