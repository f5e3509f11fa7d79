"""Base, adapter and everything that was exported, in tables of which each is of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from solotune.artifacts.measured import Comparison, EvalReport, ModelScore, Proof
from solotune.console import counted
from solotune.report.verdict import signed

KL = "KL from the adapter"
AGREEMENT = "same likeliest token"


class Compared(NamedTuple):
    """A figure of one model, and how it compares with the adapter's; empty: it wasn't measured."""

    value: str = ""
    difference: str = ""
    """With its interval; empty: of base and adapter, or not compared."""
    verdict: str = ""


class ModelsTable(NamedTuple):
    """Models on the same rows."""

    rows: str
    """`80 rows`, `64 of the 80 rows`."""
    measures: list[str]
    models: dict[str, list[Compared]]
    """Name -> a figure of each measure."""
    not_kept: list[str]
    """Those that `export` measured, and deleted: there is what it wrote down, and no answer."""

    @property
    def has_exports(self) -> bool:
        return len(self.models) > 2


def models(report: EvalReport) -> list[ModelsTable]:
    """One of all rows that were measured, first; then one for each other rows that something was measured on.

    What `export` found out when it held a model against the adapter stands in the table of its rows: the loss where
    `evaluate` didn't measure the model on these rows itself, KL and agreement always.
    """
    whole = report.examples
    scored = {(score.examples or whole, True) for score in report.artefacts.values()}
    proven = {(proof.examples, proof.rows_are_among) for proof in report.proofs.values()}
    others = sorted((scored | proven) - {(whole, True)}, reverse=True)
    return [_table(report, examples, among) for examples, among in ((whole, True), *others)]


def _table(report: EvalReport, examples: int, among: bool) -> ModelsTable:
    """Of so many rows, that are among those of the report or not."""
    scored = {
        name: of for name, of in report.artefacts.items() if among and (of.examples or report.examples) == examples
    }
    proofs = {name: of for name, of in report.proofs.items() if (of.examples, of.rows_are_among) == (examples, among)}
    names = [name for name in dict.fromkeys([*report.artefacts, *report.proofs]) if name in scored or name in proofs]
    metrics = list(report.adapter.metrics)
    measures = ["loss", "perplexity", *metrics, *([KL, AGREEMENT] if proofs else [])]
    figures = _of_both(report, examples, metrics, None if among else next(iter(proofs.values())))
    for name in names:
        if name in scored:
            figures[name] = _of_score(scored[name], metrics, report.artefact_comparison.get(name, {}))
        else:
            proof = proofs[name]
            beside = Compared(f"{proof.loss:.4f}", signed(proof.loss - proof.adapter_loss, 4))
            figures[name] = [beside, Compared(f"{proof.perplexity:.4g}"), *[Compared()] * len(metrics)]
        figures[name] += _of_proof(proofs.get(name)) if proofs else []
    for cells in figures.values():
        cells.extend([Compared()] * (len(measures) - len(cells)))
    not_kept = [name for name, proof in proofs.items() if not proof.kept]
    return ModelsTable(_rows(report, examples, among), measures, figures, not_kept)


def _rows(report: EvalReport, examples: int, among: bool) -> str:
    if not among:
        return f"{counted(examples, 'row')} that export took"
    return counted(examples, "row") if examples == report.examples else f"{examples:,} of the {report.examples:,} rows"


def _of_both(
    report: EvalReport, examples: int, metrics: Sequence[str], proof: Proof | None
) -> dict[str, list[Compared]]:
    if proof is not None:  # of rows that weren't measured now there is what export wrote down
        losses = {"base": proof.base_loss, "adapter": proof.adapter_loss}
        return {name: [Compared(f"{loss:.4f}")] for name, loss in losses.items()}
    fewer = next((one for one in report.on_fewer if one.examples == examples), None)
    both = {"base": fewer.base, "adapter": fewer.adapter} if fewer else {"base": report.base, "adapter": report.adapter}
    return {name: _of_score(score, metrics, {}) for name, score in both.items()}


def _of_score(of: ModelScore, metrics: Sequence[str], beside: dict[str, Comparison]) -> list[Compared]:
    values = {name: f"{of.metrics[name].value:.3f}" if name in of.metrics else "" for name in metrics}
    return [
        _compared(f"{of.loss:.4f}", beside.get("loss"), 4),
        Compared(f"{of.perplexity:.4g}"),
        *(_compared(value, beside.get(name), 3) for name, value in values.items()),
    ]


def _of_proof(proof: Proof | None) -> list[Compared]:
    if proof is None:
        return [Compared(), Compared()]
    kl = "" if proof.kl_mean is None else f"{proof.kl_mean:.2g}"
    agreement = "" if proof.greedy_agreement is None else f"{proof.greedy_agreement:.2%}"
    return [Compared(kl), Compared(agreement)]


def _compared(value: str, one: Comparison | None, digits: int) -> Compared:
    if one is None:
        return Compared(value)
    difference, low, high = (signed(number, digits) for number in (one.difference, *one.ci95))
    return Compared(value, f"{difference} ({low} to {high})", one.verdict)
