from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from peft import PeftModel
from tests.tiny import make_experiment
from transformers import AutoModelForCausalLM

from solotune import cli
from solotune.artifacts.files import FileRecord, record_files, write_json
from solotune.artifacts.measured import EXPORT_SCHEMA_VERSION, Artefact, EvalReport, ExportRecord, Prediction
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Difference, Verdict, Verification
from solotune.config.load import load
from solotune.dataset.stored import read_rows
from solotune.errors import Interrupted, ModelError
from solotune.modeling import likelihood
from solotune.modeling.chat import IGNORE, ChatEncoder
from solotune.stages.evaluate.exported import Exported, to_measure


def evaluated(run: Path, *argv: str) -> EvalReport:
    assert cli.main(["evaluate", "--run", run.name, *argv]) == 0
    report = RunDir(run).report()
    assert report is not None
    return report


def predictions(path: Path) -> list[Prediction]:
    return [msgspec.json.decode(line, type=Prediction) for line in path.read_bytes().splitlines()]


def test_base_and_adapter_are_measured_compared_and_written(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = evaluated(finished_run)
    said = capsys.readouterr().out
    assert report.examples == 12
    found = predictions(RunDir(finished_run).predictions)
    assert len(found) == report.examples
    for name in ("base", "adapter"):
        score = getattr(report, name)
        answers = [getattr(one, name) for one in found]
        assert score.loss == pytest.approx(sum(a.nll for a in answers) / report.tokens)
        assert score.perplexity == pytest.approx(math.exp(score.loss))
        assert sum(bucket.tokens for bucket in score.by_position) == report.tokens
        assert [(b.start, b.end) for b in score.by_position][:4] == [(0, 1), (1, 2), (2, 4), (4, 8)]
        by_position = sum(b.loss * b.tokens for b in score.by_position) / report.tokens
        assert by_position == pytest.approx(score.loss, rel=1e-5)
        assert sum(tag.examples for tag in score.by_tag.values()) == report.examples
        assert sum(tag.loss * tag.tokens for tag in score.by_tag.values()) / report.tokens == pytest.approx(score.loss)
    loss = report.comparison["loss"]
    assert loss.difference == pytest.approx(report.adapter.loss - report.base.loss)
    assert loss.rows_better + loss.rows_worse == loss.n == report.examples
    assert loss.noise is None
    assert set(report.comparison_by_tag) == {"even", "odd"} == set(report.adapter.by_tag)
    assert set(report.comparison) == {"loss", "exact_match", "json_valid"} == set(report.comparison_by_tag["odd"])
    assert f"adapter beside base: {loss.verdict}: loss ({loss.difference:+.4f})" in said
    assert RunDir(finished_run).page.is_file()


def test_the_rows_that_got_worse_are_listed_the_worst_first(finished_run: Path) -> None:
    report = evaluated(finished_run)
    each = {
        p.id: (p.adapter.nll - p.base.nll) / p.base.tokens
        for p in predictions(RunDir(finished_run).predictions)
        if p.adapter.nll > p.base.nll
    }
    assert report.comparison["loss"].rows_worse == len(each)
    worst = sorted(each, key=lambda row: -each[row])
    assert [row.id for row in report.worse_rows.get("loss", [])] == worst
    assert [row.difference for row in report.worse_rows.get("loss", [])] == pytest.approx([each[i] for i in worst])


@pytest.fixture(scope="module")
def trained_in_float32(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository root with a finished run without quantisation."""
    root = tmp_path_factory.mktemp("float32")
    config = make_experiment(root, tiny_model)
    text = config.read_text().replace("source: folder}", "source: folder, dtype: float32}")
    config.write_text(text.replace("quantization: {load_in_4bit: true}\n", ""))
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        for command in ("fetch", "prepare", "train"):
            given = ("--config", "small.yaml", "--set", "training.max_steps=2", "--set", "training.eval_steps=0")
            assert cli.main([command, *given]) == 0
    return root


@pytest.fixture
def float32_run(trained_in_float32: Path, workspace: Path) -> Path:
    """The folder of that run, below the current folder."""
    shutil.copytree(trained_in_float32, workspace, dirs_exist_ok=True)
    (run,) = Path("runs").glob("2*")
    return run


def test_the_loss_is_that_of_plain_transformers_row_by_row(float32_run: Path) -> None:
    report = evaluated(float32_run, "--set", "evaluation.metrics=[]")
    config = load(float32_run / "config.yaml")
    base = ModelDir.of(config.model)
    encoder = ChatEncoder.open(base, str(float32_run / "adapter" / "chat_template.jinja"))
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(plain, float32_run / "adapter").eval()

    def loss() -> float:
        nll, tokens = 0.0, 0
        for row in read_rows(Path("data/splits/test.jsonl")):
            encoded = encoder.encode(row.messages)
            count = sum(label != IGNORE for label in encoded.labels[1:])
            with torch.no_grad():
                mean = adapted(input_ids=torch.tensor([encoded.input_ids]), labels=torch.tensor([encoded.labels])).loss
            nll, tokens = nll + float(mean) * count, tokens + count
        assert tokens == report.tokens
        return nll / tokens

    assert abs(report.adapter.loss - loss()) < 1e-4
    assert abs(report.adapter.perplexity / math.exp(loss()) - 1) < 1e-4
    with adapted.disable_adapter():
        assert abs(report.base.loss - loss()) < 1e-4


FIGURES = {"loss": 0.5, "perplexity": 1.6, "base_loss": 3.0, "adapter_loss": 0.25}


def _export(run: Path) -> RunDir:
    """A merged model, as the stage `export` leaves it."""
    run_dir, config = RunDir(run), load(run / "config.yaml")
    base = ModelDir.of(config.model)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    folder = run_dir.export / "merged"
    PeftModel.from_pretrained(model, run / "adapter").merge_and_unload().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base.path / name, folder / name)
    artefacts = {
        "adapter": Artefact("export/adapter", {}, None, {}, {}, None),
        "merged": Artefact("export/merged", record_files(folder), "original", {}, {}, True),
        "merged-dequantised": Artefact(None, {}, "dequantised", FIGURES, {}, False),
    }
    write_json(run_dir.export_record, ExportRecord(EXPORT_SCHEMA_VERSION, run_dir.run_id, 12, artefacts))
    return run_dir


def test_what_was_exported_is_measured_beside_and_held_against_the_adapter(
    float32_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = _export(float32_run)
    report = evaluated(float32_run)
    assert list(report.artefacts) == ["merged"]
    assert report.artefacts["merged"].loss == pytest.approx(report.adapter.loss, abs=1e-4)
    compared = report.artefact_comparison["merged"]
    assert compared["loss"].difference == pytest.approx(0.0, abs=1e-4)
    assert compared["exact_match"].verdict == "cannot tell"
    assert "model.safetensors" in report.artefact_files["merged"]
    assert all(set(one.artefacts) == {"merged"} for one in predictions(run_dir.predictions))
    said = capsys.readouterr().out
    assert (
        "to be measured: base and adapter on cpu; merged on cpu; `--no-exports` measures base and adapter alone" in said
    )
    assert "merged beside adapter: " in said
    assert said.split("exports beside base and adapter, 12 rows of test\n")[1].split()[:3] == [
        "base",
        "adapter",
        "merged",
    ]


def test_a_merge_that_wasnt_kept_is_in_the_report_and_the_table(
    float32_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = _export(float32_run)
    report = evaluated(float32_run)
    proof = report.proofs["merged-dequantised"]
    assert (proof.examples, proof.loss, proof.kept, proof.passed) == (12, 0.5, False, False)
    assert "merged-dequantised (not kept)" in capsys.readouterr().out
    assert "not kept" in run_dir.page.read_text()
    assert cli.main(["evaluate", "--run", "latest", "--split", "val", "--no-exports"]) == 0
    of_val = msgspec.json.decode((float32_run / "eval_report.val.json").read_bytes(), type=EvalReport)
    assert of_val.proofs == {}, "they were measured on the config's split"


def test_exports_can_be_left_out_and_are_told(float32_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = _export(float32_run)
    (run_dir.export / "merged" / "config.json").write_text("{}")
    report = evaluated(float32_run, "--no-exports")
    assert (report.artefacts, report.artefacts_missing) == ({}, ["merged"])
    said = capsys.readouterr().out
    assert "to be measured: base and adapter on cpu\n" in said
    assert "not measured: merged; `" in said
    assert "Exported, and not measured: merged." in run_dir.page.read_text()


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the report stands without merged; the same command measures all"),
        (Interrupted("", 143), 143, "stopped; the report stands without merged; the same command measures all"),
        (ModelError("it can't be loaded"), 2, "the report stands without merged; the same command measures all"),
    ],
    ids=["Ctrl-C", "SIGTERM", "an error"],
)
def test_base_and_adapter_are_on_the_disk_before_an_export_is_looked_at(
    stop: BaseException,
    code: int,
    said: str,
    float32_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = _export(float32_run)

    def stopped(*arguments: Any) -> None:
        assert run_dir.report() is not None
        raise stop

    with monkeypatch.context() as patched:
        patched.setattr("solotune.stages.evaluate.opened", stopped)
        assert cli.main(["evaluate", "--run", "latest"]) == code
    told = capsys.readouterr()
    assert said in told.err
    assert "adapter beside base: " in told.out
    report = run_dir.report()
    assert report is not None
    assert (report.artefacts, report.artefacts_missing) == ({}, ["merged"])
    assert len(predictions(run_dir.predictions)) == report.examples
    after = evaluated(float32_run)
    assert list(after.artefacts) == ["merged"]
    assert after.artefacts_missing == []


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [(KeyboardInterrupt(), 130, "interrupted; the report"), (ModelError("no memory"), 2, "the report")],
    ids=["Ctrl-C", "an error"],
)
def test_a_suite_that_doesnt_come_to_its_end_leaves_base_and_adapter(
    stop: BaseException,
    code: int,
    said: str,
    float32_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = _export(float32_run)

    def stopped(*arguments: Any) -> None:
        assert run_dir.report() is not None
        assert "adapter beside base: " in capsys.readouterr().out
        raise stop

    monkeypatch.setattr("solotune.stages.evaluate.forgetting.prepare", lambda *_: ("a task",))
    monkeypatch.setattr("solotune.stages.evaluate.forgetting.run", stopped)
    assert cli.main(["evaluate", "--run", "latest", "--suite", "a_task"]) == code
    without = f"{said} stands without what --suite asks, merged; the same command measures all again\n"
    assert without in capsys.readouterr().err
    assert cli.main(["evaluate", "--run", "latest", "--suite", "a_task", "--no-exports"]) == code
    assert "stands without what --suite asks; the same" in capsys.readouterr().err


@pytest.mark.slow  # the converter takes ten seconds to import
def test_a_gguf_is_measured_by_the_same_code(float32_run: Path) -> None:
    pytest.importorskip("xllamacpp")
    from solotune.modeling.gguf_export import convert

    run_dir = _export(float32_run)
    record = msgspec.json.decode(run_dir.export_record.read_bytes(), type=ExportRecord)
    folder = run_dir.export / "gguf" / "f32"
    folder.mkdir(parents=True)
    convert(run_dir.export / "merged", folder / "small-f32.gguf", "f32")
    artefact = Artefact("export/gguf/f32", record_files(folder), "original", {}, {}, True)
    write_json(run_dir.export_record, msgspec.structs.replace(record, artefacts={"gguf-f32": artefact}))
    report = evaluated(float32_run)
    assert list(report.artefacts) == ["gguf-f32"]
    assert report.artefacts["gguf-f32"].loss == pytest.approx(report.adapter.loss, abs=0.01)
    assert report.artefacts["gguf-f32"].answered == report.adapter.answered
    assert report.artefacts["gguf-f32"].metrics.keys() == report.adapter.metrics.keys()
    tokens = {
        one.id: (one.adapter.tokens, one.artefacts["gguf-f32"].tokens) for one in predictions(run_dir.predictions)
    }
    assert all(ours == theirs for ours, theirs in tokens.values())

    few = evaluated(float32_run, "--set", "evaluation.gguf_examples=5")
    assert (few.artefacts["gguf-f32"].examples, few.artefact_comparison["gguf-f32"]["loss"].n) == (5, 5)
    answered = [one for one in predictions(run_dir.predictions) if one.artefacts]
    assert len(answered) == 5
    (on_fewer,) = few.on_fewer
    of_five = [one.adapter for one in answered]
    assert on_fewer.adapter.loss == pytest.approx(sum(a.nll for a in of_five) / sum(a.tokens for a in of_five))
    of_gguf = [one.artefacts["gguf-f32"].nll for one in answered]
    assert few.artefacts["gguf-f32"].loss == pytest.approx(sum(of_gguf) / sum(a.tokens for a in of_five))


def test_an_export_that_was_changed_since_isnt_measured(float32_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _export(float32_run)
    (float32_run / "export" / "merged" / "config.json").write_text("{}")
    assert cli.main(["evaluate", "--run", "latest"]) == 2
    assert "merged isn't what was exported: config.json has 2 bytes" in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_one_line_and_no_report(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = likelihood.score

    def with_a_hole(*arguments: Any) -> list[likelihood.RowScore]:
        scores = whole(*arguments)
        hole = np.full_like(scores[3].token_nll, np.nan)
        return [*scores[:3], likelihood.RowScore(math.nan, len(hole), hole, scores[3].greedy), *scores[4:]]

    monkeypatch.setattr(likelihood, "score", with_a_hole)
    assert cli.main(["evaluate", "--run", "latest"]) == 2
    said = capsys.readouterr().err
    assert "error: adapter: the loss isn't a number on 1 row of test (the first: row-" in said
    assert not RunDir(finished_run).eval_report.exists()


def test_a_stop_leaves_the_old_report_and_its_answers(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(finished_run)
    run_dir = RunDir(finished_run)
    before = [path.read_bytes() for path in (run_dir.eval_report, run_dir.predictions)]

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("solotune.stages.evaluate.written.summarise", stopped)
    assert cli.main(["evaluate", "--run", "latest"]) == 130
    assert [path.read_bytes() for path in (run_dir.eval_report, run_dir.predictions)] == before
    assert f"interrupted; {run_dir.eval_report} stands as it was; the same command" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["of the answers", "of the report"])
def test_a_stop_while_the_files_are_written_leaves_those_of_before(
    moment: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(finished_run)
    run_dir = RunDir(finished_run)
    before = [path.read_bytes() for path in (run_dir.eval_report, run_dir.predictions)]

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    where = {"of the answers": "_answer", "of the report": "json_text"}[moment]
    with monkeypatch.context() as patched:
        patched.setattr(f"solotune.stages.evaluate.written.{where}", stopped)
        assert cli.main(["evaluate", "--run", "latest"]) == 130
    assert [path.read_bytes() for path in (run_dir.eval_report, run_dir.predictions)] == before
    assert not list(finished_run.glob(".staged-*"))


@pytest.mark.parametrize("full", ["predictions.jsonl", "eval_report.json"])
def test_a_disk_that_is_full_when_the_files_are_flushed_leaves_those_of_before(
    full: str, finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(finished_run)
    run_dir = RunDir(finished_run)
    before = [path.read_bytes() for path in (run_dir.eval_report, run_dir.predictions)]
    flush, failed = os.fsync, []

    def fsync(descriptor: int) -> None:
        if f".staged-{full}" in os.readlink(f"/proc/self/fd/{descriptor}"):
            failed.append(full)
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        assert cli.main(["evaluate", "--run", "latest"]) == 2
    assert "the report stands" not in capsys.readouterr().err
    assert failed == [full]
    assert [path.read_bytes() for path in (run_dir.eval_report, run_dir.predictions)] == before
    assert not list(finished_run.glob(".staged-*"))


def _pressing(numbers: Sequence[int], pressed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals come at the worst moment: the answers have their name, the report hasn't."""
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == "eval_report.json":
            pressed.append(target.exists())
            for number in numbers:
                os.kill(os.getpid(), number)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_ctrl_c_waits_until_both_files_have_their_names_and_the_page_is_theirs(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(finished_run)
    run_dir = RunDir(finished_run)
    run_dir.page.unlink()
    pressed: list[bool] = []
    with monkeypatch.context() as patched:
        _pressing([signal.SIGINT], pressed, patched)
        assert cli.main(["evaluate", "--run", "latest", "--set", "evaluation.max_examples=3"]) == 130
    assert "interrupted; the report stands, with all that was asked for\n" in capsys.readouterr().err
    assert pressed == [False], "no report stands beside answers that aren't its own"
    report = run_dir.report()
    assert report is not None
    found = predictions(run_dir.predictions)
    assert len(found) == report.examples == 3
    assert report.adapter.loss == pytest.approx(sum(one.adapter.nll for one in found) / report.tokens)
    assert "same 3 rows of test" in run_dir.page.read_text()


def test_a_hang_up_that_nohup_has_ignored_swallows_no_ctrl_c(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed: list[bool] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patched:
            _pressing([signal.SIGHUP, signal.SIGINT], pressed, patched)
            assert cli.main(["evaluate", "--run", "latest"]) == 130
        with monkeypatch.context() as patched:
            _pressing([signal.SIGHUP], pressed, patched)
            assert cli.main(["evaluate", "--run", "latest"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_choices_are_scored_and_nothing_is_generated_for_them(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(*arguments: Any) -> list[str]:
        raise AssertionError("nothing to answer")

    monkeypatch.setattr("solotune.modeling.generate.answer", generate)
    report = evaluated(finished_run, "--set", "evaluation.metrics=[choice_accuracy]")
    summary = report.adapter.metrics["choice_accuracy"]
    found = predictions(RunDir(finished_run).predictions)
    references = {one.reference for one in found}
    assert summary.n == report.examples
    assert all(one.adapter.choice in references for one in found)
    right = [one.adapter.choice == one.reference for one in found]
    assert summary.value == pytest.approx(sum(right) / len(right))
    assert report.metric_labels["choice_accuracy"].startswith("choices: the references")


def test_choices_that_dont_fit_the_rows_are_told_before_a_model_is_loaded(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("solotune.stages.evaluate.load_base_model", None)
    metrics = "evaluation.metrics=[{choice_accuracy: {choices: ['yes', 'no']}}]"
    assert cli.main(["evaluate", "--run", "latest", "--set", metrics]) == 2
    assert "is none of the choices" in capsys.readouterr().err


def test_run_to_run_noise_widens_the_interval_of_the_loss(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = evaluated(finished_run).comparison
    run_dir = RunDir(finished_run)
    differs = Verdict(False, "the log", Difference(1, "loss"), 0.25)
    verification = Verification("2026-01-01T00:00:00Z", 4, 2, [], differs, differs, None)
    run_dir.write_manifest(msgspec.structs.replace(run_dir.manifest(), verification=verification))
    report = evaluated(finished_run)
    loss = report.comparison["loss"]
    assert loss.noise == 0.25
    low, high = plain["loss"].ci95
    assert loss.ci95 == pytest.approx((low - 0.25, high + 0.25))
    assert loss.verdict == "cannot tell"
    assert report.comparison["exact_match"] == plain["exact_match"]
    said = capsys.readouterr().out
    assert "from verify, 4 steps: the loss on training rows, which stands in for the held-out one: intervals" in said
    assert "Of the metrics nobody looked." in said
    assert "Of the metrics nobody looked." in run_dir.page.read_text()


def test_only_what_concerns_the_evaluation_can_be_set(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated(finished_run, "--set", "evaluation.max_examples=3")
    assert report.examples == 3
    measured = [json.loads(line)["id"] for line in (finished_run / "predictions.jsonl").read_text().splitlines()]
    rows = [json.loads(line)["id"] for line in Path("data/splits/test.jsonl").read_text().splitlines()]
    third = len(rows) / 3
    assert [int(rows.index(one) / third) for one in measured] == [0, 1, 2], "one from each third of the split"
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--run", "latest", "--set", "lora.r=8"])
    assert "the rest of the config is what the run was trained with" in capsys.readouterr().err


def test_a_tag_that_no_row_carries_is_told(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--set", "evaluation.metrics_by_tag={tools: [contains]}")
    report = evaluated(finished_run, *given)
    assert "no row of test has the tag tools" in capsys.readouterr().err
    assert "contains" not in report.adapter.metrics


def test_answers_that_are_cut_are_counted_and_warned_of(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluated(finished_run, "--set", "evaluation.max_new_tokens=1")
    found = predictions(RunDir(finished_run).predictions)
    assert report.adapter.answered is not None
    assert report.base.answered is not None
    assert report.adapter.answered.cut == sum(one.adapter.cut for one in found)
    assert report.adapter.answered.n == report.examples == 12
    said = capsys.readouterr()
    assert (
        f"Answers that were cut at evaluation.max_new_tokens: base {report.base.answered.cut} of 12, adapter"
        in said.out
    )
    assert (
        "more than 3% of the answers were cut at evaluation.max_new_tokens, and metrics saw them as they are"
        in said.err
    )
    assert "Answers that were cut at evaluation.max_new_tokens" in RunDir(finished_run).page.read_text()


def test_what_is_known_of_answers_is_printed_once_of_each_model_and_exports_are_warned_of(
    float32_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _export(float32_run)
    report = evaluated(float32_run, "--set", "evaluation.max_new_tokens=1")
    assert report.artefacts["merged"].answered == report.adapter.answered
    said = capsys.readouterr()
    cut = [line for line in said.out.splitlines() if line.startswith("Answers that were cut at")]
    assert [[name in line for name in ("base ", "adapter ", "merged ")] for line in cut] == [
        [True, True, False],
        [False, False, True],
    ]
    assert "warning: base and adapter: more than 3% of the answers were cut" in said.err
    assert "warning: merged: more than 3% of the answers were cut" in said.err
    assert RunDir(float32_run).page.read_text().count("Answers that were cut at evaluation.max_new_tokens") == 1


@pytest.fixture
def measured_on_four(float32_run: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run whose export was measured on some of the rows, as a GGUF is."""
    run_dir = _export(float32_run)

    def on_four(*arguments: Any) -> dict[str, Exported]:
        return {name: replace(one, rows=range(0, 12, 3)) for name, one in to_measure(*arguments).items()}

    monkeypatch.setattr("solotune.stages.evaluate.to_measure", on_four)
    report = evaluated(float32_run)
    assert report.artefacts["merged"].examples == 4
    assert [one.examples for one in report.on_fewer] == [4]
    return run_dir


def test_what_was_measured_of_an_export_stays_until_it_is_measured_anew(
    measured_on_four: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = measured_on_four
    first, answers = run_dir.report(), run_dir.predictions.read_bytes()
    assert first is not None
    capsys.readouterr()
    kept = evaluated(run_dir.path, "--no-exports")
    assert kept.artefacts_of_before == ["merged"]
    assert msgspec.structs.replace(kept, artefacts_of_before=[], seconds=first.seconds) == first
    assert run_dir.predictions.read_bytes() == answers
    said = capsys.readouterr().out
    assert "merged (before)" in said
    assert "measured before, when base and adapter came out the same: merged; `" in said
    assert "in which base and adapter came out the same: merged." in run_dir.page.read_text()

    def stopped(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("solotune.stages.evaluate.opened", stopped)
        assert cli.main(["evaluate", "--run", "latest"]) == 130
    assert "the report stands with merged as measured before; the same command" in capsys.readouterr().err
    assert run_dir.predictions.read_bytes() == answers
    anew = evaluated(run_dir.path)
    assert (list(anew.artefacts), anew.artefacts_of_before) == (["merged"], [])


def _another_file(run_dir: RunDir) -> None:
    record = run_dir.exported()
    assert record is not None
    merged = record.artefacts["merged"]
    other = msgspec.structs.replace(merged, files=merged.files | {"config.json": FileRecord(1, "0" * 64)})
    write_json(run_dir.export_record, msgspec.structs.replace(record, artefacts={"merged": other}))


def _other_figures(run_dir: RunDir) -> None:
    report = run_dir.report()
    assert report is not None
    adapter = msgspec.structs.replace(report.adapter, loss=math.nextafter(report.adapter.loss, 9.0))
    write_json(run_dir.eval_report, msgspec.structs.replace(report, adapter=adapter))


def _a_lost_answer(run_dir: RunDir) -> None:
    lines = run_dir.predictions.read_text().splitlines(keepends=True)
    run_dir.predictions.write_text("".join(["{\n", *lines[1:]]))


def _a_cut_file(run_dir: RunDir) -> None:
    (run_dir.export / "merged" / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (_another_file, ()),
        (_other_figures, ()),
        (_a_lost_answer, ()),
        (_a_cut_file, ()),
        (lambda _: None, ("--set", "evaluation.max_new_tokens=9")),
    ],
    ids=["another export", "other figures of the adapter", "a damaged answer", "a cut file", "other settings"],
)
def test_what_is_no_longer_true_of_an_export_doesnt_stay(
    change: Callable[[RunDir], None], given: tuple[str, ...], measured_on_four: RunDir
) -> None:
    change(measured_on_four)
    report = evaluated(measured_on_four.path, "--no-exports", *given)
    assert (report.artefacts, report.artefacts_of_before, report.artefacts_missing) == ({}, [], ["merged"])
    assert not any(one.artefacts for one in predictions(measured_on_four.predictions))
