"""What an earlier `evaluate` left, as far as it is still true: exports' figures and a suite's take hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from solotune.artifacts.files import FileRecord, differing_files, read_record
from solotune.artifacts.measured import YOURS, Answer, Artefact, EvalReport, Suite
from solotune.errors import ArtifactError
from solotune.harness.held_out import HeldOut
from solotune.report.gathered import read_predictions

Of = TypeVar("Of")


@dataclass(frozen=True)
class Before:
    """The report that stood there, and the answers beside it."""

    report: EvalReport | None = None
    answers: Sequence[Mapping[str, Answer]] = ()
    """For each row those of exported models, by name; none where they aren't answers to these rows."""

    @classmethod
    def read(cls, report_path: Path, predictions_path: Path, held_out: HeldOut) -> Before:
        """What can't be read is nothing: it will be measured anew."""
        try:
            report = read_record(report_path, EvalReport, "invoke evaluate")
        except ArtifactError:
            return cls()
        if not report.artefacts or not predictions_path.is_file():
            return cls(report)
        rows = list(read_predictions(predictions_path))
        is_of_these = [row and row.id for row in rows] == [row.id for row in held_out.rows]
        return cls(report, [row.artefacts for row in rows if row] if is_of_these else ())

    def suite(self, adapter: Mapping[str, FileRecord]) -> Suite | None:
        """What the tasks found, if it was this adapter that they asked."""
        return self.report.suite if self.report and self.report.adapter_files == adapter else None

    def completed(self, report: EvalReport, there: Mapping[str, Artefact], run: Path) -> EvalReport:
        """A report with what this one found of exports that it doesn't have.

        Taken over are those whose files are the same, and only where the same settings on the same rows gave the same
        figures of base and adapter, to the last digit: else an export's would stand beside others than its own.

        Args:
            report: of now; `artefacts_missing` are those that it doesn't have.
            there: what is exported.
            run: the run's folder.
        """
        before = self.report
        if before is None or _circumstances(before) != _circumstances(report):
            return report
        names = [name for name in report.artefacts_missing if self._is_true(name, there[name], run)]
        on_fewer = {one.examples: one for one in report.on_fewer}
        for one in before.on_fewer:
            if one.examples in {before.artefacts[name].examples for name in names}:
                on_fewer.setdefault(one.examples, one)
        opening = report.opening
        if opening and before.opening:
            told = {name: of for name, of in before.opening.models.items() if name in names}
            opening = msgspec.structs.replace(opening, models=opening.models | told)

        def joined(old: Mapping[str, Of], new: Mapping[str, Of]) -> dict[str, Of]:
            return {name: (old if name in names else new)[name] for name in there if name in names or name in new}

        return msgspec.structs.replace(
            report,
            artefacts=joined(before.artefacts, report.artefacts),
            artefact_comparison=joined(before.artefact_comparison, report.artefact_comparison),
            artefact_files=joined(before.artefact_files, report.artefact_files),
            artefacts_missing=[name for name in report.artefacts_missing if name not in names],
            artefacts_of_before=names,
            on_fewer=[on_fewer[examples] for examples in sorted(on_fewer)],
            opening=opening,
        )

    def _is_true(self, name: str, artefact: Artefact, run: Path) -> bool:
        """Whether it was this one that was measured, as far as can be seen without reading all of it."""
        before = self.report
        if before is None or before.artefact_files.get(name) != artefact.files:
            return False
        files = {file: record for file, record in artefact.files.items() if file not in YOURS}
        answered = sum(name in row for row in self.answers)
        is_whole = not differing_files(run / str(artefact.path), files, hashes=False)
        return is_whole and 0 < answered == before.artefacts[name].examples


def _circumstances(report: EvalReport) -> tuple[object, ...]:
    """What has to be the same for two reports to be about the same."""
    return (
        (report.split, report.splits, report.examples, report.tokens, report.adapter_files),
        (report.overrides, report.metric_labels, report.base, report.adapter),
    )
