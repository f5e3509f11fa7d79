"""Did it forget? Tasks of lm-evaluation-harness on base and adapter, through its Python API (0.4.13).

Its tasks, its prompts and its metrics; ours are the model in memory, the chat template of the run, the pairing of
rows, and the verdict.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from solotune.artifacts.measured import Suite, SuiteTask
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.suite_data import SuiteDataManifest
from solotune.comparison import Interval, intervals, of_differences, verdict
from solotune.config.schema import RunConfig, SuiteConfig
from solotune.console import safe, say
from solotune.errors import ConfigError, DataError
from solotune.harness.held_out import HeldOut
from solotune.harness.suite_data import RowsMissing, kept_rows
from solotune.harness.suite_tasks import first_line, load, refuse_unknown, task_manager, trouble_told
from solotune.harness.thoughts import BLOCKS
from solotune.modeling.base_model import autocast

_BOOTSTRAPS = 1000
"""For its own standard errors of metrics that are no means of rows."""


@dataclass(frozen=True)
class Asked:
    """Tasks that are there, and how they are asked."""

    tasks: tuple[str, ...]
    settings: SuiteConfig
    manager: Any
    """lm_eval.tasks.TaskManager."""
    own: tuple[str, ...] = ()
    """Those that don't come with lm-evaluation-harness."""


def prepare(settings: SuiteConfig | None, tasks: Sequence[str]) -> Asked:
    """Finds the tasks and their rows, before any model is loaded.

    Args:
        settings: evaluation.suite.
        tasks: instead of its own.

    Raises:
        MachineError: lm-evaluation-harness isn't installed.
        ConfigError: no task is named, or there is none of that name.
        DataError: a task can't be loaded, for one because its rows aren't on this machine.
    """
    settings = settings or SuiteConfig()
    wanted = tuple(tasks) or settings.tasks
    if not wanted:
        raise ConfigError(["--suite: no task is named; write `--suite TASK,TASK`, or evaluation.suite.tasks"])
    manager, own = task_manager(settings.include_path, wanted)
    refuse_unknown(manager, settings, wanted, "--suite")
    asked = Asked(wanted, settings, manager, tuple(own))
    with _trouble_in_one_line(asked), kept_rows():
        load(manager, wanted)
    return asked


def run(asked: Asked, model: Any, base: ModelDir, held_out: HeldOut, config: RunConfig) -> Suite:
    """Asks both models.

    Where the template begins answers with an empty block of thoughts, both are asked without thoughts, as on the
    held-out rows; and what stands before the end of a block is no part of an answer.

    Args:
        asked: by `prepare`.
        model: a PeftModel; its adapter is switched on and off.
        base: for the tokenizer.
        held_out: for the chat template that the run was trained with.
        config: the run's.

    Raises:
        DataError: a task can't be run, for one because its data isn't on this machine.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True, trust_remote_code=False)
    tokenizer.chat_template = held_out.encoder.template.source
    end_of_thoughts = _end_of_thoughts(held_out)
    without_thoughts = {"enable_thinking": False} if end_of_thoughts and held_out.opening(0) else {}
    subject = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=asked.settings.batch_size,
        device=str(model.device),
        chat_template_args=without_thoughts,
        think_end_token=end_of_thoughts,
    )
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with autocast(config), kept_rows() as used:  # both are asked the same rows, those that a task shuffles too
        say("adapter: lm-evaluation-harness")
        adapter = _evaluated(asked, subject)
        say("base: lm-evaluation-harness")
        with model.disable_adapter():
            bare = _evaluated(asked, subject)
    return Suite(
        version("lm_eval"),
        asked.settings.limit,
        list(compared(bare, adapter)),
        at=at,
        asked=list(asked.tasks),
        include_path=asked.settings.include_path,
        num_fewshot=asked.settings.num_fewshot,
        chat_template_args=without_thoughts,
        think_end_token=end_of_thoughts,
        seeds={name: adapter["config"][f"{name}_seed"] for name in ("random", "numpy", "torch", "fewshot")},
        data_sets=_commits(used.values()),
    )


def _commits(kept: Iterable[SuiteDataManifest]) -> dict[str, list[str]]:
    """Of each data set those that its configurations had when they were brought."""
    found: dict[str, set[str]] = {}
    for one in kept:
        if one.revision:
            found.setdefault(one.name, set()).add(one.revision)
    return {name: sorted(commits) for name, commits in sorted(found.items())}


def _end_of_thoughts(held_out: HeldOut) -> str | None:
    """The tokenizer's mark of it; None: it has none."""
    marks = [end for _, end in BLOCKS if end in held_out.encoder.control_tokens]
    return marks[0] if marks else None


def compared(base: Mapping[str, Any], adapter: Mapping[str, Any]) -> Iterator[SuiteTask]:
    """Both results of `simple_evaluate`, metric by metric; groups have lines of their own.

    Args:
        base: with `samples`.
        adapter: of the same tasks.
    """
    for task, ours in adapter["results"].items():
        theirs = base["results"][task]
        for metric in (key for key in ours if "," in key and "_stderr," not in key):
            values = [found.get(metric) for found in (theirs, ours)]
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                continue
            before, after = map(float, values)
            name, _, of_filter = metric.partition(",")
            higher = bool(adapter.get("higher_is_better", {}).get(task, {}).get(name, True))
            each = _paired(base, adapter, task, name, of_filter)
            if each is None:
                stderr = _independent(theirs, ours, f"{name}_stderr,{of_filter}")
                interval = None if stderr is None else (after - before - 1.96 * stderr, after - before + 1.96 * stderr)
            else:
                stderr = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
                interval = intervals([of_differences(each)])[0]
            yield SuiteTask(
                task=task,
                metric=metric,
                higher_is_better=higher,
                base=before,
                adapter=after,
                difference=after - before,
                stderr=stderr,
                n=len(each) if each is not None else int(ours.get("sample_len", 0)),
                verdict=_verdict(interval, higher),
                ci95=interval,
                version=str(adapter.get("versions", {}).get(task, "")),
                num_fewshot=adapter.get("n-shot", {}).get(task),
            )


def _verdict(interval: Interval | None, higher: bool) -> str:
    return "cannot tell" if interval is None else verdict(interval, higher_is_better=higher)


def _paired(
    base: Mapping[str, Any], adapter: Mapping[str, Any], task: str, metric: str, of_filter: str
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """The metric's difference on each row; None where it is no mean of numbers that rows have."""
    found = []
    for results in (base, adapter):
        rows = [sample for sample in results.get("samples", {}).get(task, ()) if sample.get("filter") == of_filter]
        found.append({sample["doc_id"]: sample.get(metric) for sample in rows})
    before, after = found
    if not before or before.keys() != after.keys():
        return None
    if not all(isinstance(value, int | float) for values in found for value in values.values()):
        return None
    ours, theirs = (np.array([values[key] for key in before], np.float64) for values in (after, before))
    # What the report says must be the mean of what the rows say: some metrics add up otherwise.
    means = (theirs.mean(), ours.mean())
    told = [float(results["results"][task][f"{metric},{of_filter}"]) for results in (base, adapter)]
    return ours - theirs if np.allclose(means, told) else None


def _independent(base: Mapping[str, Any], adapter: Mapping[str, Any], key: str) -> float | None:
    """Of a difference of two that aren't paired: wider than it need be."""
    both = [found[key] for found in (base, adapter) if isinstance(found.get(key), int | float)]
    return math.hypot(*both) if len(both) == 2 and all(map(math.isfinite, both)) else None


def _evaluated(asked: Asked, subject: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    with _trouble_in_one_line(asked):
        found: dict[str, Any] = simple_evaluate(
            model=subject,
            tasks=list(asked.tasks),
            num_fewshot=asked.settings.num_fewshot,
            limit=asked.settings.limit,
            task_manager=asked.manager,
            apply_chat_template=True,
            bootstrap_iters=_BOOTSTRAPS,
            log_samples=True,
        )
    return found


def _trouble_in_one_line(asked: Asked) -> AbstractContextManager[None]:
    def told(error: Exception) -> DataError:
        names = ", ".join(safe(task, 200) for task in asked.tasks)
        if isinstance(error, RowsMissing):
            what, fix = f"the rows of {safe(str(error), 120)} aren't here", _how_to_bring(asked)
        else:
            what, fix = first_line(error), "Leave that task out; where it is your own, mend it"
        return DataError(f"lm-evaluation-harness can't run {names}: {what}", fix)

    return trouble_told(told)


def _how_to_bring(asked: Asked) -> str:
    brought = [safe(task, 200) for task in asked.tasks if task not in asked.own]
    if not brought:
        return "A task of your own has its rows in a file: `dataset_path: json`, `dataset_kwargs: {data_files: FILE}`"
    return f"Bring them: `invoke fetch --config CONFIG --set 'evaluation.suite={{tasks: [{', '.join(brought)}]}}'`"
