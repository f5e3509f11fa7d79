from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from solotune.artifacts.files import write_json
from solotune.artifacts.measured import EvalReport, ModelScore
from solotune.artifacts.run_dir import Reproduction, RunDir, RunManifest, Verdict, Verification
from solotune.harness.noise import noise_of

FIRST, SECOND = "20260101-000000-small-aaaaaa", "20260102-000000-small-bbbbbb"
SAME, APART = Verdict(True, "all"), Verdict(False, "all", None, 0.125)


def verification(rerun: Verdict) -> Verification:
    return Verification("", 4, 2, [], rerun, SAME, None)


def make(runs: Path, run_id: str, loss: float | None = None, split: str = "test", **facts: Any) -> RunManifest:
    made = RunDir(runs / run_id)
    made.path.mkdir(parents=True)
    manifest = RunManifest(1, run_id, "", "", 0, "strict", "", {}, {}, "", {}, "", {}, **facts)
    made.write_manifest(manifest)
    if loss is not None:
        score = ModelScore(loss, 1.0, {})
        write_json(made.eval_report, EvalReport(1, run_id, split, 1, 1, score, score, {}, {}, {}, 0.0))
    return manifest


def noise(runs: Path, manifest: RunManifest) -> float | None:
    return noise_of(runs, RunDir(runs / manifest.run_id), manifest, "test", 1.0)


def test_nothing_is_known_until_somebody_looks(tmp_path: Path) -> None:
    assert noise(tmp_path, make(tmp_path, FIRST)) is None


@pytest.mark.parametrize(("rerun", "expected"), [(SAME, 0.0), (APART, 0.125)])
def test_verify_has_seen_two_trainings(tmp_path: Path, rerun: Verdict, expected: float) -> None:
    assert noise(tmp_path, make(tmp_path, FIRST, verification=verification(rerun))) == expected


def test_the_held_out_losses_of_a_run_and_of_the_same_made_again_tell_most(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST, loss=1.0)
    again = Reproduction(FIRST, [], APART, adapter_equal=False)
    second = make(tmp_path, SECOND, loss=1.5, reproduction=again)
    assert noise(tmp_path, first) == 0.5
    assert noise_of(tmp_path, RunDir(tmp_path / SECOND), second, "test", 1.5) == 0.5


def test_another_split_says_nothing_and_the_log_of_the_training_does(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST)
    make(tmp_path, SECOND, loss=1.5, split="val", reproduction=Reproduction(FIRST, [], APART, adapter_equal=False))
    assert noise(tmp_path, first) == 0.125


def test_the_same_adapter_twice_has_no_noise_and_the_largest_that_was_seen_counts(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST, verification=verification(SAME))
    make(tmp_path, SECOND, reproduction=Reproduction(FIRST, [], SAME, adapter_equal=True))
    assert noise(tmp_path, first) == 0.0
    third = SECOND.replace("0102", "0103")
    make(tmp_path, third, loss=0.7, reproduction=Reproduction(FIRST, [], APART, adapter_equal=False))
    assert noise(tmp_path, first) == pytest.approx(0.3)


def test_a_damaged_run_beside_it_hides_nothing(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST, verification=verification(APART))
    make(tmp_path, SECOND)
    RunDir(tmp_path / SECOND).manifest_path.write_text("{")
    assert noise(tmp_path, first) == 0.125
