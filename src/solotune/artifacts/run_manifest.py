"""What made a run and what came of it: manifest.json, and the lines of the files beside it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from solotune.artifacts.files import FileRecord
from solotune.config.schema import Split

SCHEMA_VERSION = 1


class Outcome(msgspec.Struct, frozen=True):
    """How training ended; in the manifest only once it has."""

    steps: int
    epochs: float
    tokens: int
    """Tokens that went through the model, padding apart."""
    trained_tokens: int
    """Tokens with a label."""
    seconds: float
    """Wall time of training, over all resumes."""
    train_loss: float | None
    """Of the last step, nats a token."""
    eval_loss: float | None
    """Of the last evaluation on val, nats a token, weighted by token; None without one."""
    peak_vram_bytes: int | None
    adapter: dict[str, FileRecord]
    """Files of adapter/."""


class SplitFacts(msgspec.Struct, frozen=True):
    """What a run saw of a split."""

    rows: int
    rows_too_long: list[str]
    """Ids of the rows that the length policy left out."""
    tokens: int
    trained_tokens: int
    """Tokens with a label."""
    rows_truncated: list[str] = []
    """Ids of the rows that it cut; overflow.jsonl says where."""
    tokens_lost: int = 0
    """Tokens that it took away, with those of the rows left out."""
    by_length: list[tuple[int, int]] = []
    """(tokens, rows that have as many), ascending."""


class OverflowRow(msgspec.Struct, frozen=True):
    """A line of overflow.jsonl: a row that is longer than training.max_length, and what became of it."""

    split: Split
    line: int
    """Of the split's file."""
    id: str
    action: Literal["dropped", "truncated"]
    tokens: int
    """Of the whole row."""
    tokens_lost: int
    trained_tokens_lost: int


class Layout(msgspec.Struct, frozen=True):
    """How the effective batch is cut into forward passes, and what of them is kept."""

    sequences: int
    """In one forward pass."""
    accumulation: int
    """Forward passes for one optimiser step."""
    recomputed: int
    """Layers, from the first, that keep their input only; their forward pass runs again in the backward pass."""
    fixed_shape: bool
    """Packs of one shape, one behind the other (`modeling/step`); else rows of a batch, padded to its longest."""


class Rehearsal(msgspec.Struct, frozen=True):
    """What the longest rows took before the first step: a step, an evaluation, an answer, a save."""

    peak_bytes: int | None
    """Of the GPU's memory, handed out by torch's allocator at most; None on a CPU."""
    reserved_bytes: int | None
    """That the allocator held for it."""
    allowed_bytes: int | None
    checkpoint_bytes: int
    checkpoint_seconds: float
    seconds: float
    """Of all of it; compiling is the largest part."""


class StepFingerprint(msgspec.Struct, frozen=True):
    """A line of fingerprints.jsonl: all that a step left, as hashes."""

    step: int
    order_sha256: str
    """Of the numbers of the rows that were in it, in their order."""
    loss: float
    grad_norm: float
    adapter: dict[str, str]
    """Tensor -> sha256."""
    optimizer: dict[str, str]
    """Tensor -> sha256."""


class Difference(msgspec.Struct, frozen=True):
    """The first thing in which two trainings differ."""

    step: int
    what: str
    """`order`, `loss`, `grad_norm`, or the name of a tensor."""


class Verdict(msgspec.Struct, frozen=True):
    """Whether two trainings are the same, to the bit."""

    equal: bool
    compared: str
    """What of them, in words."""
    first_difference: Difference | None = None
    max_loss_difference: float = 0.0
    """Nats a token, over the steps compared: the noise between two runs, where they aren't equal."""


class Verification(msgspec.Struct, frozen=True):
    """What `verify` found."""

    at: str
    """UTC, ISO 8601."""
    steps: int
    resumed_at: int
    differs_today: list[str]
    """What of the machine isn't as it was when the run began."""
    rerun: Verdict
    """Two trainings from the beginning, each in a process of its own."""
    resume: Verdict
    """One that was stopped and resumed beside one that wasn't."""
    original: Verdict | None
    """The run's own log beside one of them; None when it logged none of these steps."""


class Reproduction(msgspec.Struct, frozen=True):
    """What `reproduce` found, in the manifest of the new run."""

    of: str
    """Run id."""
    differs_today: list[str]
    training: Verdict
    adapter_equal: bool
    report_equal: bool | None = None
    """Loss and metrics of evaluate; None when the first run has none."""
    export_equal: bool | None = None
    """All that was exported, its files and figures; None when nothing of the first run was."""
    export_differs: list[str] = []
    """In what, a line each."""


class RunManifest(msgspec.Struct, frozen=True):
    """What made this run. `outcome` is null until training has finished."""

    schema_version: int
    run_id: str
    created: str
    """UTC, ISO 8601."""
    config_sha256: str
    """Of config.yaml."""
    seed: int
    determinism: str
    splits_dir: str
    splits: dict[str, FileRecord]
    base_model: dict[str, FileRecord]
    base_model_dir: str
    environment: dict[str, Any]
    """git commit and diff, lock hash, image digest, GPU, driver, WSL or not, library versions, threads."""
    template_sha256: str
    """Of the chat template."""
    data: dict[str, SplitFacts]
    """By split."""
    resumes: list[dict[str, Any]] = []
    """A line for each resume: when, from which step, which checkpoints were set aside, what differed."""
    outcome: Outcome | None = None
    order_sha256: str = ""
    """Of the packs: which rows are in which sequence."""
    not_covered: list[str] = []
    """What keeps this run from being the same to the bit if it were made again, and why; empty: nothing known."""
    layout: Layout | None = None
    """Chosen for the card on which the run began; None before that."""
    rehearsal: Rehearsal | None = None
    """Of the last start."""
    verification: Verification | None = None
    """The last one."""
    reproduction: Reproduction | None = None
