"""What `scripts/local.sh smoke` must have shown; run after it (`.ci/run` does)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors import safe_open

from solotune.artifacts.files import differing_files, read_record
from solotune.artifacts.measured import ExportRecord
from solotune.artifacts.run_dir import RunDir, run_ids
from solotune.config.precision import has_fast_bfloat16

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def run_dir() -> RunDir:
    smoke = [run_id for run_id in run_ids(ROOT / "runs") if "-smoke-" in run_id]
    assert smoke, "run `scripts/local.sh smoke` first"
    return RunDir(ROOT / "runs" / smoke[-1])


def test_it_shows_learning_on_held_out_rows(run_dir: RunDir) -> None:
    report = run_dir.report()
    assert report is not None
    assert report.split == "test"
    assert report.examples >= 80
    assert report.adapter.metrics["exact_match"].value >= 0.8
    assert report.base.metrics["exact_match"].value < 0.1
    assert report.adapter.loss <= report.base.loss / 2
    assert report.comparison["exact_match"].verdict == "better"


def test_it_takes_at_most_ten_minutes() -> None:
    if "SMOKE_SECONDS" not in os.environ:
        pytest.skip("SMOKE_SECONDS is not set: nobody timed the smoke run")
    if not has_fast_bfloat16():
        pytest.skip("a processor without AVX-512 takes longer")
    assert int(os.environ["SMOKE_SECONDS"]) <= 600


def test_the_merged_model_is_the_adapter_on_disk(run_dir: RunDir) -> None:
    record = read_record(run_dir.export_record, ExportRecord, "smoke")
    merged = record.artefacts["merged"]
    assert merged.passed
    assert merged.merge_base == "dequantised"
    assert abs(merged.measured["difference"]) <= merged.tolerance["max_loss_difference"]
    assert merged.measured["base_loss"] > 10 * merged.measured["loss"]
    assert not differing_files(run_dir.export / "merged", merged.files, hashes=True)
    with safe_open(run_dir.export / "merged" / "model.safetensors", framework="pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict
    assert kinds == {"BF16"}
    assert "quantization_config" not in json.loads((run_dir.export / "merged" / "config.json").read_text())


def test_quarantine_was_seen_working() -> None:
    manifest = json.loads((ROOT / "data" / "splits" / "smoke" / "manifest.json").read_text())
    assert manifest["rows_in"] == manifest["rows_kept"] + manifest["rows_quarantined"] + manifest["rows_duplicate"]
    assert manifest["rows_quarantined"] >= 5
    assert manifest["rows_duplicate"] >= 1
    assert len(manifest["reasons"]) >= 5


def test_no_path_of_this_machine_and_no_secret_is_in_the_run(run_dir: RunDir) -> None:
    for file in run_dir.path.rglob("*.json"):
        if "merged" not in file.parts:
            assert str(ROOT) not in file.read_text(errors="replace"), file
