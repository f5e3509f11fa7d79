"""The page of a run that was really trained, measured and exported: it says what the records say."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest

from solotune import cli
from solotune.artifacts.run_dir import RunDir

RUN = "20260101-000000-small-aaaaaa"


@pytest.mark.slow
def test_the_page_has_the_figures_of_the_records(small_experiment: Path) -> None:
    for argv in (
        ["fetch", "--config", "small.yaml"],
        ["prepare", "--config", "small.yaml"],
        ["train", "--config", "small.yaml", "--run-id", RUN],
        ["evaluate", "--run", RUN],
        ["export", "--run", RUN, "--merge"],
    ):
        assert cli.main(argv) == 0
    run_dir = RunDir(Path("runs") / RUN)
    text = unescape(run_dir.page.read_text())
    report, manifest, exported = run_dir.report(), run_dir.manifest(), run_dir.exported()
    assert report
    assert exported
    assert manifest.outcome
    assert exported.artefacts["merged"].divergence
    for said in (
        f"{report.base.loss:.4f}",
        f"{report.adapter.loss:.4f}",
        f"{manifest.outcome.eval_loss:.4f}",
        f"{manifest.data['train'].tokens:,}",
        "60 raw rows",
        f"merged (KL {exported.artefacts['merged'].divergence.kl_mean:.2g} of at most 0.01 nats a token) is as close",
        f"({report.tokens:,} assistant tokens)",
    ):
        assert said in text, said
    found = json.loads(text.split('id="data">')[1].split("</script>")[0])
    logged = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    assert [step for step, _ in found["curves"]["loss"]] == [line["step"] for line in logged if "loss" in line]
    assert len(found["answers"]["rows"]) == report.examples
    assert RUN in (run_dir.path.parent / "index.html").read_text()
