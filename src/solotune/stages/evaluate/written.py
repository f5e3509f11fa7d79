"""eval_report.json and predictions.jsonl, written anew after each model; they take their names together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from solotune import report as pages
from solotune.artifacts.files import json_text, staged_pair
from solotune.artifacts.measured import Answer, EvalReport, ExportRecord, Prediction, Suite
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import SCHEMA_VERSION, Outcome, RunManifest
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Measured, Metric
from solotune.harness.noise import noise_of, widened
from solotune.harness.opening import opening_of
from solotune.harness.summary import summarise
from solotune.signals import asked_to_end
from solotune.stages.evaluate.before import Before
from solotune.stages.evaluate.exported import kept, proofs, rows_of_proof


@dataclass
class Writer:
    """What every version of the report has in common, and the last one."""

    run_dir: RunDir
    manifest: RunManifest
    outcome: Outcome
    held_out: HeldOut
    metrics: Sequence[Metric]
    overrides: Sequence[str]
    record: ExportRecord | None
    """export.json."""
    is_own_split: bool
    """That of the config, on which exports are proven; another one has files of its own."""
    start: float
    """Of `time.monotonic`."""
    standing: EvalReport | None = None
    """The report that it wrote last, and that stands."""
    is_suite_missing: bool = False
    """Tasks were asked for, and that report was written without them."""

    @property
    def paths(self) -> tuple[Path, Path]:
        """Where report and predictions lie."""
        return self.run_dir.report_paths(None if self.is_own_split else self.held_out.split)

    @cached_property
    def before(self) -> Before:
        """What stood there; looked at before the first report takes its place."""
        return Before.read(*self.paths, self.held_out)

    def write(
        self, measured: Mapping[str, Measured], suite: Suite | None, *, is_suite_missing: bool = False
    ) -> EvalReport:
        """Puts what has been measured so far in the place of what stood there, the run's page too.

        Ctrl-C waits from the first new name to the page; only a kill or a power cut comes between.

        Args:
            measured: `base`, `adapter`, and what was exported, by its name in export.json.
            suite: what the tasks found.
            is_suite_missing: that was before; they are asked again, and haven't answered yet.
        """
        report = self.before.completed(self._report(measured, suite), kept(self.record), self.run_dir.path)
        report_path, predictions_path = self.paths
        lines = _lines(self._predictions(measured, report))
        with staged_pair(predictions_path, lines, report_path, json_text(report)) as take_names, _signals_wait():
            take_names()  # or the earlier one comes back
            self.standing, self.is_suite_missing = report, is_suite_missing
            pages.write(self.run_dir)
        return report

    def _report(self, measured: Mapping[str, Measured], suite: Suite | None) -> EvalReport:
        proven = proofs(self.record, self.held_out) if self.is_own_split else {}
        rows_of_these = rows_of_proof(self.record, self.held_out) if proven else None
        summary = summarise(measured, self.held_out, [rows_of_these] if rows_of_these else [])
        there = kept(self.record)
        names = [name for name in measured if name not in ("base", "adapter")]
        report = EvalReport(
            schema_version=SCHEMA_VERSION,
            run_id=self.run_dir.run_id,
            split=self.held_out.split,
            examples=len(self.held_out),
            tokens=sum(s.tokens for s in measured["base"].scores),
            base=summary.models["base"],
            adapter=summary.models["adapter"],
            comparison=summary.comparison,
            splits=self.manifest.splits,
            adapter_files=self.outcome.adapter,
            seconds=round(time.monotonic() - self.start, 1),
            comparison_by_tag=summary.comparison_by_tag,
            worse_rows=summary.worse_rows,
            artefacts={name: summary.models[name] for name in names},
            artefact_comparison=summary.artefact_comparison,
            artefact_files={name: there[name].files for name in names},
            metric_labels={metric.label: metric.words for metric in self.metrics if metric.words},
            suite=suite,
            overrides=list(self.overrides),
            tags_left_out=summary.tags_left_out,
            artefacts_missing=[name for name in there if name not in names],
            on_fewer=summary.on_fewer,
            proofs=proven,
            opening=opening_of(measured, self.held_out),
        )
        return widened(report, noise_of(self.run_dir.path.parent, self.run_dir, self.manifest, report))

    def _predictions(self, measured: Mapping[str, Measured], report: EvalReport) -> Iterator[Prediction]:
        places = {name: {number: i for i, number in enumerate(one.rows)} for name, one in measured.items()}
        for i, row in enumerate(self.held_out.rows):
            answers = {name: _answer(one, places[name][i]) for name, one in measured.items() if i in places[name]}
            old = self.before.answers[i] if report.artefacts_of_before else {}
            answers |= {name: old[name] for name in report.artefacts_of_before if name in old}
            yield Prediction(
                id=row.id,
                tags=list(row.meta.tags),
                messages=[{"role": m.role, "content": m.content} for m in row.messages[:-1]],
                reference=self.held_out.reference(i),
                base=answers.pop("base"),
                adapter=answers.pop("adapter"),
                artefacts={name: answers[name] for name in report.artefacts if name in answers},
            )


def _answer(one: Measured, row: int) -> Answer:
    generated = one.generated[row]
    return Answer(
        answer=one.answers[row],
        nll=one.scores[row].nll,
        tokens=one.scores[row].tokens,
        metrics={metric: values[row] for metric, values in one.values.items()},
        choice=one.choices[row],
        cut=generated is not None and generated.is_cut,
        thoughts=generated.thoughts if generated else "",
    )


def _lines(rows: Iterable[Prediction]) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    for row in rows:
        yield encoder.encode(row) + b"\n"


@contextmanager
def _signals_wait() -> Iterator[None]:
    """What asks the command to end does so when the block is through."""
    came: list[int] = []
    with ExitStack() as after:
        after.callback(_raise_again, came)
        # Blocking them would do for one thread alone, and libraries have more.
        for number in (*asked_to_end(), signal.SIGINT):
            after.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda number, _: came.append(number))
        yield


def _raise_again(came: Sequence[int]) -> None:
    for number in came:  # one that the process ignores is no end of them
        signal.raise_signal(number)
