"""eval_report.json, predictions.jsonl and export.json: what was measured on a run's models, and what was shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts.files import FileRecord, differing_files


class MetricSummary(msgspec.Struct, frozen=True):
    """A metric over the rows that it applies to."""

    value: float
    ci95: tuple[float, float]
    n: int


class PositionLoss(msgspec.Struct, frozen=True):
    """Loss of the assistant tokens that stand at like places of their answer."""

    start: int
    """First place, counted in tokens from the answer's beginning."""
    end: int
    """Behind the last one."""
    tokens: int
    loss: float
    """Nats a token."""


class TagScore(msgspec.Struct, frozen=True):
    """One model on the held-out rows that carry a tag."""

    examples: int
    tokens: int
    loss: float
    metrics: dict[str, MetricSummary]


class Answered(msgspec.Struct, frozen=True):
    """How a model's answers ended and began."""

    n: int
    """Rows that were answered; none are where no metric asks for an answer."""
    cut: int
    """Not finished after `evaluation.max_new_tokens`."""
    thoughts: int
    """Began with a whole block of thoughts (`<think>…</think>`), at which no metric looked."""
    unfinished_thoughts: int
    """Began with a block of thoughts that doesn't end."""


class ModelScore(msgspec.Struct, frozen=True):
    """One model on the held-out rows."""

    loss: float
    """Mean negative log-likelihood of the assistant tokens, nats, weighted by token."""
    perplexity: float
    metrics: dict[str, MetricSummary]
    by_tag: dict[str, TagScore] = {}
    by_position: list[PositionLoss] = []
    examples: int = 0
    """Rows that it was measured on; below the report's they are spread over those."""
    answered: Answered | None = None


class OnFewer(msgspec.Struct, frozen=True):
    """Base and adapter on some of the rows, for what was measured on no more of them."""

    examples: int
    base: ModelScore
    adapter: ModelScore


class Proof(msgspec.Struct, frozen=True):
    """What export.json says of an exported model, kept or not: measured by `export` with the same code."""

    examples: int
    """Rows that it was measured on."""
    loss: float
    perplexity: float
    base_loss: float
    """On these rows."""
    adapter_loss: float
    kl_mean: float | None
    greedy_agreement: float | None
    merge_base: str | None
    kept: bool
    passed: bool | None
    rows_are_among: bool = True
    """Its rows are among those of the report (`on_fewer`, or all of them)."""


class OpeningSaid(msgspec.Struct, frozen=True):
    """One model before the opening."""

    examples: int
    by_itself: int
    """Rows on which it finds each of its tokens likeliest."""
    loss_without: float
    """Nats a token of all the others."""


class Opening(msgspec.Struct, frozen=True):
    """What the chat template writes between the generation prompt and an answer: Qwen3's empty block of thoughts.

    Every model is given it before it answers, as `enable_thinking=False` gives it. It has labels, and so is a part of
    the loss.
    """

    text: str
    """That of most rows."""
    tokens: int
    """Over all rows."""
    models: dict[str, OpeningSaid]


class Comparison(msgspec.Struct, frozen=True):
    """One model minus another, paired by row."""

    difference: float
    ci95: tuple[float, float]
    verdict: str
    """`better`, `worse` or `cannot tell`."""
    n: int = 0
    """Rows that both were measured on."""
    rows_better: int = 0
    rows_worse: int = 0
    noise: float | None = None
    """How far two trainings of one config lie apart (`noise_from`); the interval is wider by it. None: not known."""


class WorseRow(msgspec.Struct, frozen=True):
    """A row on which the adapter is worse than the base model."""

    id: str
    difference: float
    """Of the metric; of the loss in nats a token."""


class SuiteTask(msgspec.Struct, frozen=True):
    """A task of lm-evaluation-harness, on base and adapter."""

    task: str
    metric: str
    """As lm-evaluation-harness spells it, e.g. `acc,none`."""
    higher_is_better: bool
    base: float
    adapter: float
    difference: float
    stderr: float | None
    """Of the difference, from the rows of both where they are known."""
    n: int
    verdict: str
    """`better`, `worse` or `cannot tell`."""
    ci95: tuple[float, float] | None = None
    """Of the difference; None where nothing is known about it."""
    version: str = ""
    """Of the task, as its YAML has it."""
    num_fewshot: int | None = None
    """Examples before each question."""


class Suite(msgspec.Struct, frozen=True):
    """Did it forget? What lm-evaluation-harness found."""

    lm_eval: str
    """Its version."""
    limit: int | None
    """Rows of each task at most; None: all."""
    tasks: list[SuiteTask]
    at: str = ""
    """UTC, ISO 8601."""
    asked: list[str] = []
    """Tasks and groups, as they were named."""
    include_path: str | None = None
    num_fewshot: int | None = None
    """That was asked for; None: as each task has it."""
    chat_template_args: dict[str, Any] = {}
    """What the run's chat template, in which every question is put, was given besides the messages."""
    think_end_token: str | None = None
    """What stands before its last one is no part of an answer."""
    seeds: dict[str, int] = {}
    """Of lm-evaluation-harness: `random`, `numpy`, `torch`, `fewshot`."""
    data_sets: dict[str, list[str]] = {}
    """Commits of each that `fetch` brought for the tasks; more than one: its configurations came on different days."""


class EvalReport(msgspec.Struct, frozen=True):
    """eval_report.json."""

    schema_version: int
    run_id: str
    split: str
    examples: int
    tokens: int
    """Assistant tokens that were scored."""
    base: ModelScore
    adapter: ModelScore
    comparison: dict[str, Comparison]
    """Adapter minus base: `loss`, then each metric."""
    splits: dict[str, FileRecord]
    adapter_files: dict[str, FileRecord]
    seconds: float
    comparison_by_tag: dict[str, dict[str, Comparison]] = {}
    """The same for the rows of each tag."""
    worse_rows: dict[str, list[WorseRow]] = {}
    """`loss` or a metric -> rows that the adapter made worse, the worst first; 100 at most, `rows_worse` counts all."""
    artefacts: dict[str, ModelScore] = {}
    """What was exported when the run was measured, by its name in export.json (`merged`, `gguf-q8_0`)."""
    artefact_comparison: dict[str, dict[str, Comparison]] = {}
    """Each of them minus the adapter, on the rows that both were measured on."""
    artefact_files: dict[str, dict[str, FileRecord]] = {}
    """The files that were measured."""
    metric_labels: dict[str, str] = {}
    """What a metric was asked with, in words, where it has options (the pattern, the schema's path)."""
    suite: Suite | None = None
    overrides: list[str] = []
    """What `--set` changed of the run's config for this measurement."""
    tags_left_out: int = 0
    """Tags of the fewest rows, beyond those that are measured by themselves."""
    artefacts_missing: list[str] = []
    """Exported, and not measured: left out with `--no-exports`, or the command ended before."""
    artefacts_of_before: list[str] = []
    """Of `artefacts` those that an earlier `evaluate` measured, which found the same of base and adapter."""
    on_fewer: list[OnFewer] = []
    """For each number of rows below `examples` on which something exported was measured."""
    proofs: dict[str, Proof] = {}
    """What export.json said, merges that weren't kept among it; empty where another split was measured."""
    opening: Opening | None = None
    """None where the template has none that holds a control token."""
    noise_from: str = ""
    """Where `Comparison.noise` comes from, in words; empty: nobody looked."""


class Answer(msgspec.Struct, frozen=True):
    """What one model did on one row."""

    answer: str
    nll: float
    """Summed over the assistant's tokens, nats."""
    tokens: int
    metrics: dict[str, float | None]
    """None where a metric doesn't apply to the row."""
    choice: str | None = None
    """The likeliest of the choices, where `choice_accuracy` was asked for."""
    cut: bool = False
    """It wasn't finished after `evaluation.max_new_tokens`."""
    thoughts: str = ""
    """A whole block of thoughts before the answer, at which no metric looks."""


class Prediction(msgspec.Struct, frozen=True):
    """A line of predictions.jsonl. Answers of exported models stand under their names in `artefacts`."""

    id: str
    tags: list[str]
    messages: list[dict[str, Any]]
    """All but the last."""
    reference: str
    base: Answer
    adapter: Answer
    artefacts: dict[str, Answer] = {}


class Divergence(msgspec.Struct, frozen=True):
    """How far an exported model is from the trained one, on the same held-out rows, token by token."""

    positions: int
    """Assistant tokens that were compared."""
    max_logit_difference: float | None
    """None where a runtime gives probabilities only."""
    mean_logit_difference: float | None
    kl_mean: float | None
    """KL(adapter ‖ artefact) in nats, over the whole vocabulary."""
    kl_max: float | None
    greedy_agreement: float
    """Share of positions at which both find the same token likeliest."""
    of_vocabulary: float = 1.0
    """Share of the adapter's probability that the KL was computed on."""


YOURS = ("README.md", "Modelfile")
"""Files of an export that people fill in before they pass it on."""


class Artefact(msgspec.Struct, frozen=True):
    """One exported thing and what was measured on it, as written to disk."""

    path: str | None
    """Below the run; None for one that was measured and not kept."""
    files: dict[str, FileRecord]
    merge_base: str | None
    """The weights that the adapter was merged into: `dequantised` or `original`; None for the adapter itself."""
    measured: dict[str, float]
    """`loss`, `perplexity`, and beside them those of base and adapter on the same rows."""
    tolerance: dict[str, float]
    passed: bool | None
    """Whether it is within the tolerance of the adapter; None for the adapter, which is what it is held against."""
    divergence: Divergence | None = None
    recommended: bool | None = None
    """Of the merge bases that were measured."""
    failed: list[str] = []
    """What it didn't pass, in words."""
    made_by: str | None = None
    """Program and version, where it wasn't solotune."""
    dtype: str | None = None
    """In which its weights are stored: `bfloat16`, of a GGUF its type (`q8_0`); None for the adapter."""
    worst_layer: str | None = None
    """Of a merge: the layer of whose change rounding left least; `measured` has that share as `update_kept_worst`."""
    computed_in: str | None = None
    """Of a merge: type and device of its figures, such as `bfloat16 on cuda`. The memory that is free can decide it."""


def damage_of(artefact: Artefact, run: Path) -> list[str]:
    """What in an artefact's folder isn't as it was written and measured, in words; empty: nothing, or none was kept."""
    if artefact.path is None:
        return []
    folder = run / artefact.path
    measured = {name: record for name, record in artefact.files.items() if name not in YOURS}
    there = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    strange = [name for name in there if name not in artefact.files and name not in YOURS]
    return [*differing_files(folder, measured, hashes=True), *(f"{name} wasn't exported" for name in strange)]


class ExportCommand(msgspec.Struct, frozen=True):
    """What an `export` was asked for, as far as it passed; the same again makes the same."""

    merge: bool
    merge_base: str | None
    """That was asked for; None: the one that the figures recommended."""
    gguf: list[str]
    """Types."""
    overrides: list[str]
    """What `--set` changed of the run's config."""


EXPORT_SCHEMA_VERSION = 2
"""2: `examples` are spread over the split; of version 1 they were its first rows."""


class ExportRecord(msgspec.Struct, frozen=True):
    """export.json."""

    schema_version: int
    run_id: str
    examples: int
    """Held-out rows that all of it was measured on; 0: nothing was."""
    artefacts: dict[str, Artefact]
    commands: list[ExportCommand] = []
    """That made the artefacts, in their order."""
