"""reproduce: the whole run once more, from its manifest; what differs today is said first, what came out last."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import msgspec

from solotune import environment
from solotune.artifacts.lock import held
from solotune.artifacts.measured import EvalReport
from solotune.artifacts.run_dir import RunDir, new_run_id
from solotune.artifacts.run_manifest import Reproduction, Verdict
from solotune.chains.compare import compare_metrics, differs
from solotune.chains.exports import commands_of, differing_exports
from solotune.chains.inputs import refuse_other_inputs
from solotune.chains.process import run_stage
from solotune.config.load import load
from solotune.console import safe, say, stage, table
from solotune.errors import ArtifactError, ProofError

RUNS = Path("runs")


def run(wanted: str) -> Reproduction:
    """Makes a finished run again, as far as it went: train, evaluate, export.

    Args:
        wanted: run id, unique prefix, or `latest`.

    Raises:
        ArtifactError: the run isn't finished, or its config, splits or base model aren't there as they were.
        ProofError: another adapter came out, with the first step whose log differs.
    """
    first = RunDir.find(RUNS, wanted)
    manifest, _ = first.finished()
    path = first.config_of(manifest)
    config = load(path)
    refuse_other_inputs(first, manifest, config, path)
    report, record = first.report(), first.exported()
    second = RunDir(RUNS / new_run_id(config.name))
    say(f"run {first.run_id} again, as {second.run_id}")
    environment.prepare_process(device=config.device)  # or all GPUs of the machine would be compared with the run's one
    for what in environment.differences(_of_machine(manifest.environment), environment.describe(Path())):
        say(f"  differs today: {what}")
    on = f"go on with `invoke train --resume {second.run_id}`; then compare the two manifests"
    again = ["train", "--config", str(path), "--run-id", second.run_id, "--like", first.run_id]
    run_stage(again, f"Where it left a checkpoint, {on}")
    if report:
        as_then = [word for value in report.overrides for word in ("--set", value)]
        measures = f"`invoke evaluate --run {second.run_id}` measures it"
        run_stage(["evaluate", "--run", second.run_id, *as_then], measures)
    for command in commands_of(record, second.run_id) if record else []:
        run_stage(command, f"`invoke {shlex.join(command)}` exports it")
    with held(second.path, f"reproduce --run {first.run_id}"):
        reproduction = _compare(first, second)
    _tell(first, second, reproduction)
    return reproduction


def _compare(first: RunDir, second: RunDir) -> Reproduction:
    """What came out, beside what came out first; into the manifest of the second run."""
    (manifest, outcome), (again, outcome_again) = first.finished(), second.finished()
    report, record = first.report(), first.exported()
    training = compare_metrics(first, second)
    if training is None:
        raise ArtifactError(f"{first.metrics} holds no step any more", "Nothing is left to compare a new log with")
    export_differs = differing_exports(record, second.exported()) if record else []
    reproduction = Reproduction(
        of=first.run_id,
        differs_today=differs(manifest, again),
        training=training,
        adapter_equal=outcome_again.adapter == outcome.adapter,
        report_equal=_same_figures(report, second.report()) if report else None,
        export_equal=not export_differs if record else None,
        export_differs=export_differs,
    )
    second.write_manifest(msgspec.structs.replace(again, reproduction=reproduction))
    return reproduction


def _of_machine(recorded: dict[str, Any]) -> dict[str, Any]:
    """Without what only a training knows of itself; `_compare` looks at that when there are two."""
    return {key: value for key, value in recorded.items() if key not in ("threads", "cpu_capability")}


def _same_figures(first: EvalReport, second: EvalReport | None) -> bool:
    # Not the comparison: its interval is wider where somebody looked for noise between runs.
    return second is not None and (first.base, first.adapter) == (second.base, second.adapter)


def _tell(first: RunDir, second: RunDir, found: Reproduction) -> None:
    with stage("reproduce"):
        for what in found.differs_today:
            say(f"  differs today: {what}")
        if not found.differs_today:
            say("  machine, code and libraries are as they were")
        answers = {
            "the log of training": found.training.equal,
            "the adapter": found.adapter_equal,
            "the figures of evaluate": found.report_equal,
            "what was exported": found.export_equal,
        }
        rows = [[name, "yes" if equal else "NO"] for name, equal in answers.items() if equal is not None]
        table(["", "the same, to the bit"], rows, f"{first.run_id} and {second.run_id}")
        for what in found.export_differs:
            say(f"  exported: {safe(what, 400)}")
        say(f"in {second.manifest_path}")
    if not found.adapter_equal:
        raise ProofError(f"another adapter came out; {_where(found.training)}", _why(found))
    differing = [name for name, equal in answers.items() if equal is False]
    if differing:
        raise ProofError(f"the adapter is the same, and not {', '.join(differing)}", _why(found))


def _where(training: Verdict) -> str:
    first = training.first_difference
    if first is None:
        return "the logs are the same"
    return f"the first difference in the log is {first.what} of step {first.step}"


def _why(found: Reproduction) -> str:
    if found.differs_today:
        return "The same bytes are promised on the same machine and code only; what differs is above"
    return f"`invoke verify --run {found.of}` looks for the first step and tensor"
