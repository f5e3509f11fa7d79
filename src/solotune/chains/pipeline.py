"""pipeline: all stages in order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from solotune.artifacts.run_dir import RunDir, new_run_id
from solotune.artifacts.splits_dir import SplitsDir
from solotune.chains.process import run_stage
from solotune.config.schema import RunConfig
from solotune.console import duration, say, table
from solotune.errors import DataError, Interrupted

RUNS = Path("runs")


def run(config: RunConfig, arguments: Sequence[str]) -> RunDir:
    """fetch, prepare, plan, train, evaluate, export --merge; ends with one table.

    Args:
        config: already checked, so that a wrong key stops before the first stage.
        arguments: `--config …` and `--set …` as they were given.
    """
    start = time.monotonic()
    run_id = new_run_id(config.name)
    for command in (
        ["fetch", *arguments],
        ["prepare", *arguments],
        ["plan", *arguments],
        ["train", *arguments, "--run-id", run_id],
        ["evaluate", "--run", run_id],
        ["export", "--run", run_id, "--merge"],
    ):
        _run_stage(command, run_id)
        if command[0] == "prepare":
            _refuse_without_held_out_rows(config)
        say()
    run_dir = RunDir(RUNS / run_id)
    _print_summary(run_dir, time.monotonic() - start)
    return run_dir


def _run_stage(command: Sequence[str], run_id: str) -> None:
    """A stage; where it is stopped, what is left of the run is said behind its own last line."""
    try:
        run_stage(command, _afterwards(command[0], run_id))
    except Interrupted as stop:
        left = " && ".join(_left(RunDir(RUNS / run_id)))
        told = [str(stop), f"what is left of it: `{left}`" if left else ""]
        raise Interrupted("\n".join(filter(None, told)), stop.exit_code) from None


def _left(run_dir: RunDir) -> list[str]:
    """Commands for the rest of a run that has begun; the pipeline itself would begin another."""
    if not run_dir.path.is_dir():
        return []
    commands = {
        f"invoke train --resume {run_dir.run_id}": run_dir.manifest().outcome is None,
        f"invoke evaluate --run {run_dir.run_id}": run_dir.report() is None,
        f"invoke export --run {run_dir.run_id} --merge": run_dir.exported() is None,
    }
    return [command for command, is_left in commands.items() if is_left]


def _refuse_without_held_out_rows(config: RunConfig) -> None:
    split = config.evaluation.split
    if not SplitsDir(Path(config.dataset.splits_dir)).manifest().rows.get(split):
        raise DataError(
            f"{split} holds no rows to measure the adapter on",
            f"Set dataset.{split}_fraction above 0, or declare rows for it; stages can also be run one by one",
        )


def _afterwards(stage: str, run_id: str) -> str:
    return {
        "train": f"Where the run had begun, `invoke train --resume {run_id}` goes on with it",
        "evaluate": f"The adapter is whole; go on with `invoke evaluate --run {run_id}`",
        "export": (
            f"The adapter is whole and measured, in runs/{run_id}/adapter; "
            f"when that is mended: `invoke export --run {run_id} --merge`"
        ),
    }.get(stage, "The stages before it need no repetition")


def _print_summary(run_dir: RunDir, seconds: float) -> None:
    report = run_dir.report()
    record = run_dir.exported()
    assert report is not None
    assert record is not None
    merged = record.artefacts["merged"].measured
    same_rows = record.examples == report.examples
    figures = {
        "loss (nats a token)": (f"{report.base.loss:.4f}", f"{report.adapter.loss:.4f}", f"{merged['loss']:.4f}"),
        "perplexity": (
            f"{report.base.perplexity:.4g}",
            f"{report.adapter.perplexity:.4g}",
            f"{merged['perplexity']:.4g}",
        ),
    }
    for name, summary in report.adapter.metrics.items():
        base = report.base.metrics.get(name)  # a metric may apply to none of its answers
        figures[name] = (f"{base.value:.3f}" if base else "", f"{summary.value:.3f}", "")
    columns = ["base", "adapter", "merged"][: 3 if same_rows else 2]
    rows = [[name, *values[: len(columns)]] for name, values in figures.items()]
    table(["", *columns], rows, f"{report.examples} held-out rows of {report.split}")
    if not same_rows:
        say(
            f"  merged: loss {merged['loss']:.4f} beside the adapter's {merged['adapter_loss']:.4f}, "
            f"on {record.examples} of them"
        )
    say()
    say(f"  adapter       {run_dir.export / 'adapter'}")
    say(f"  merged model  {run_dir.export / 'merged'} (read back from disk to be measured)")
    say(f"  answers       {run_dir.predictions}")
    say(f"  all figures   {run_dir.eval_report}, {run_dir.export_record}")
    say(f"  took          {duration(seconds)}")
    say('  next          your own rows: see README, "Your own data in five lines"')
