"""Tables of models: only what was measured on the same rows stands in one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.report.demo import make_run

from solotune.artifacts.measured import EvalReport, OnFewer, Proof
from solotune.report.models import AGREEMENT, KL, Compared, models

PROOF = Proof(60, 0.21, 1.23, 3.5, 0.2, 0.004, 0.995, "dequantised", kept=True, passed=True)
DELETED = msgspec.structs.replace(PROOF, loss=0.31, kl_mean=0.1, merge_base="original", kept=False)


@pytest.fixture
def report(runs: Path) -> EvalReport:
    found = make_run(runs, steps=1, rows=60).report()
    assert found
    return found


def test_every_model_stands_beside_the_adapter(report: EvalReport) -> None:
    (table,) = models(report)
    assert table.measures == ["loss", "perplexity", "exact_match", "json_fields_f1", "json_valid"]
    assert list(table.models) == ["base", "adapter", "merged"]
    assert table.models["adapter"][0] == Compared(f"{report.adapter.loss:.4f}")
    exact_match = report.adapter.metrics["exact_match"].value
    assert table.models["merged"][2] == (f"{exact_match:.3f}", "0.000 (0.000 to 0.000)", "cannot tell")
    (alone,) = models(msgspec.structs.replace(report, artefacts={}))
    assert not alone.has_exports


def test_a_merge_that_wasnt_kept_stands_in_the_table_of_its_rows(report: EvalReport) -> None:
    proofs = {"merged": PROOF, "merged-original": DELETED}
    (table,) = models(msgspec.structs.replace(report, proofs=proofs))
    assert table.measures[-2:] == [KL, AGREEMENT]
    assert list(table.models) == ["base", "adapter", "merged", "merged-original"]
    assert table.not_kept == ["merged-original"]
    assert table.models["merged"][0].verdict, "what evaluate measured on these rows comes before what export did"
    deleted = table.models["merged-original"]
    assert deleted[0] == ("0.3100", "+0.1100", "")
    assert [cell.value for cell in deleted[1:]] == ["1.23", "", "", "", "0.1", "99.50%"]
    assert all(len(cells) == len(table.measures) for cells in table.models.values())


def test_other_rows_are_another_table(report: EvalReport) -> None:
    on_fewer = OnFewer(
        20, *(msgspec.structs.replace(of, loss=loss) for of, loss in ((report.base, 4.0), (report.adapter, 0.5)))
    )
    gguf = msgspec.structs.replace(report.artefacts["merged"], examples=20)
    proofs = {name: msgspec.structs.replace(of, examples=20) for name, of in (("merged", PROOF), ("gguf-q8_0", PROOF))}
    grown = msgspec.structs.replace(
        report, artefacts=report.artefacts | {"gguf-q8_0": gguf}, on_fewer=[on_fewer], proofs=proofs
    )
    whole, first = models(grown)
    assert (whole.rows, list(whole.models)) == ("60 rows", ["base", "adapter", "merged"])
    assert KL not in whole.measures
    assert (first.rows, list(first.models)) == ("20 of the 60 rows", ["base", "adapter", "merged", "gguf-q8_0"])
    assert [cells[0].value for cells in first.models.values()] == ["4.0000", "0.5000", "0.2100", f"{gguf.loss:.4f}"]


@pytest.mark.parametrize("examples", [64, 20])
def test_rows_that_werent_measured_now_have_what_export_wrote_down(report: EvalReport, examples: int) -> None:
    proof = msgspec.structs.replace(DELETED, examples=examples, rows_are_among=False)
    gguf = msgspec.structs.replace(report.artefacts["merged"], examples=20)
    grown = msgspec.structs.replace(
        report,
        artefacts={"gguf-q8_0": gguf},
        proofs={"merged-original": proof},
        on_fewer=[OnFewer(20, report.base, report.adapter)],
    )
    tables = {table.rows: table for table in models(grown)}
    of_export = tables[f"{examples} rows that export took"]
    assert list(of_export.models) == ["base", "adapter", "merged-original"]
    assert [cells[0].value for cells in of_export.models.values()] == ["3.5000", "0.2000", "0.3100"]
    assert all(len(cells) == len(of_export.measures) for cells in of_export.models.values())
    assert list(tables["20 of the 60 rows"].models) == ["base", "adapter", "gguf-q8_0"]
