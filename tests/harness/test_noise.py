from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from solotune.artifacts.files import FileRecord, write_json
from solotune.artifacts.measured import Comparison, EvalReport, MetricSummary, ModelScore, TagScore
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Reproduction, RunManifest, Verdict, Verification
from solotune.harness.noise import Noise, noise_of, widened

FIRST, SECOND = "20260101-000000-small-aaaaaa", "20260102-000000-small-bbbbbb"
THIRD = SECOND.replace("0102", "0103")
SAME, APART = Verdict(True, "all"), Verdict(False, "all", None, 0.125)
DIFFERS = Reproduction(FIRST, [], APART, adapter_equal=False)


def verification(rerun: Verdict) -> Verification:
    return Verification("", 4, 2, [], rerun, SAME, None)


def report(loss: float = 1.0, right: float = 0.5, **facts: Any) -> EvalReport:
    metrics = {"exact_match": MetricSummary(right, (0.0, 1.0), 20)}
    score = ModelScore(loss, 1.0, metrics, {"a": TagScore(10, 40, loss + 0.25, metrics)})
    compared = {
        "loss": Comparison(-0.2, (-0.3, -0.1), "better", 20, 20, 0),
        "exact_match": Comparison(0.3, (0.1, 0.5), "better", 20, 6, 0),
    }
    made = EvalReport(1, FIRST, "test", 20, 80, score, score, compared, {}, {}, 0.0, {"a": compared})
    return msgspec.structs.replace(made, **facts)


def make(runs: Path, run_id: str, measured: EvalReport | None = None, **facts: Any) -> RunManifest:
    made = RunDir(runs / run_id)
    made.path.mkdir(parents=True)
    manifest = RunManifest(1, run_id, "", "", 0, "strict", "", {}, {}, "", {}, "", {}, **facts)
    made.write_manifest(manifest)
    if measured is not None:
        write_json(made.eval_report, measured)
    return manifest


def noise(runs: Path, manifest: RunManifest, ours: EvalReport | None = None) -> Noise | None:
    return noise_of(runs, RunDir(runs / manifest.run_id), manifest, ours or report())


def test_nothing_is_known_until_somebody_looks(tmp_path: Path) -> None:
    found = noise(tmp_path, make(tmp_path, FIRST))
    assert found is None
    assert widened(report(), found) == report()


def test_verify_that_saw_the_same_twice_knows_of_no_noise(tmp_path: Path) -> None:
    found = noise(tmp_path, make(tmp_path, FIRST, verification=verification(SAME)))
    assert found is not None
    assert found.source == "verify: 4 steps made twice, the same to the bit"
    assert found.of_all == {"loss": 0.0, "exact_match": 0.0}
    after = widened(report(), found)
    assert after.comparison["loss"].noise == 0.0
    assert after.comparison["loss"].ci95 == report().comparison["loss"].ci95


def test_the_losses_of_a_training_stand_in_and_say_so_and_tell_nothing_of_metrics(tmp_path: Path) -> None:
    found = noise(tmp_path, make(tmp_path, FIRST, verification=verification(APART)))
    assert found is not None
    assert found.source == "verify, 4 steps: the loss on training rows, which stands in for the held-out one"
    assert (found.of_all, found.by_tag) == ({"loss": 0.125}, {"a": {"loss": 0.125}})
    after = widened(report(), found)
    loss, metric = after.comparison["loss"], after.comparison["exact_match"]
    assert (loss.ci95, loss.verdict, loss.noise) == (
        (pytest.approx(-0.425), pytest.approx(0.025)),
        "cannot tell",
        0.125,
    )
    assert (metric.ci95, metric.verdict, metric.noise) == ((0.1, 0.5), "better", None)
    assert after.comparison_by_tag["a"]["loss"].noise == 0.125
    assert after.noise_from == found.source


def test_the_same_rows_measured_on_both_tell_most_and_of_every_measure(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST, report(), verification=verification(APART))
    second = make(tmp_path, SECOND, report(1.5, 0.75), reproduction=DIFFERS)
    found = noise(tmp_path, first)
    assert found is not None
    assert found.source == f"reproduce ({SECOND}), measured on the same rows"
    assert found.of_all == {"loss": 0.5, "exact_match": 0.25}
    assert found.by_tag == {"a": {"loss": 0.5, "exact_match": 0.25}}
    assert widened(report(), found).comparison["exact_match"].verdict == "cannot tell"
    of_second = noise(tmp_path, second, report(1.5, 0.75))
    assert of_second is not None
    assert of_second.of_all == found.of_all
    make(tmp_path, THIRD, report(0.25), reproduction=DIFFERS)
    largest = noise(tmp_path, first)
    assert largest is not None
    assert largest.of_all == {"loss": 0.75, "exact_match": 0.25}


@pytest.mark.parametrize(
    "other",
    [
        {"split": "val"},
        {"examples": 19},
        {"overrides": ["evaluation.max_new_tokens=4"]},
        {"tokens": 81},
        {"metric_labels": {"python:x": "metrics/x.py 0123"}},
        {"adapter_files": {"adapter_model.safetensors": FileRecord(1, "0" * 64)}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_rows_or_settings_tell_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    first = make(tmp_path, FIRST)
    make(tmp_path, SECOND, report(1.5, **other), reproduction=DIFFERS)
    found = noise(tmp_path, first)
    assert found is not None
    assert found.of_all == {"loss": 0.125}
    assert found.source.startswith(f"reproduce ({SECOND}): the loss on training rows")


def test_the_same_adapter_twice_has_no_noise(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST)
    make(tmp_path, SECOND, reproduction=Reproduction(FIRST, [], SAME, adapter_equal=True))
    found = noise(tmp_path, first)
    assert found is not None
    assert found.source == f"reproduce ({SECOND}): the same adapter"
    assert set(found.of_all.values()) == {0.0}


def test_a_damaged_run_beside_it_hides_nothing(tmp_path: Path) -> None:
    first = make(tmp_path, FIRST, verification=verification(APART))
    make(tmp_path, SECOND)
    RunDir(tmp_path / SECOND).manifest_path.write_text("{")
    assert noise(tmp_path, first) is not None
