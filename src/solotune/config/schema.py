"""Every key of a config file. Where upstream has a name for a thing, the key has that name.

A key that is not here is an error. Defaults are for a 7-8B model on a 24 GB card.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Section(BaseModel):
    """One mapping of the YAML file: frozen, unknown keys forbidden, numbers finite, docstrings as help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
# Strict mode takes a list for a list only; YAML knows no tuples, and a frozen section should hold no list.
Strings = Annotated[tuple[Text, ...], Field(strict=False)]
# What a metric's options are is known where the metric is, above this layer (solotune.metrics).
Metrics = Annotated[tuple[Text | dict[str, Any], ...], Field(strict=False)]


class HubDataset(Section):
    """A data set of the hub, pinned; `fetch` brings it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")]
    """Its id on the hub: ORGANISATION/NAME."""
    revision: Text
    """The commit, 40 hex digits; the data set's page lists commits under 'Files and versions'."""

    @field_validator("revision")
    @classmethod
    def revision_is_a_commit(cls, value: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{40}", value):
            raise ValueError(
                f"{value!r} is no commit (40 hex digits, lower case): branches and tags move; "
                "the data set's page on the hub lists commits under 'Files and versions'"
            )
        return value


class DedupConfig(Section):
    """Rows that say almost the same; those that say the same are one row, always."""

    near: Literal["off", "report", "cluster"] = "report"
    """Near-duplicates: `report` those on two sides, `cluster` puts them on one side, `off` doesn't look for them."""
    threshold: Annotated[float, Field(ge=0.6, le=1.0)] = 0.8
    """The Jaccard similarity of their word 5-grams from which two rows are near-duplicates."""


class DatasetConfig(Section):
    """Which raw rows are read, and how they are divided."""

    raw_files: Strings = Field(min_length=1)
    """Files or glob patterns: .jsonl, .json, .csv, .tsv (also .gz, .zst), .parquet. Relative to the repository, or
    within the data set of the hub where there is a `dataset.hub`."""
    hub: HubDataset | None = None
    """Rows from a data set of the hub instead of from files of this machine; null: none."""
    format: Literal["messages", "openai_chat", "sharegpt", "alpaca", "prompt_completion"] = "messages"
    """How a raw row is laid out; `messages` is the contract itself."""
    columns: dict[str, Text] = {}
    """Our field name -> the name of the column in the raw file, where they differ."""
    splits_dir: Text = "data/splits"
    """Where `prepare` writes train, val and test."""
    val_fraction: Fraction = 0.05
    """Share of the groups that goes to val, for rows that declare no split."""
    test_fraction: Fraction = 0.10
    """Share of the groups that goes to test, for rows that declare no split."""
    dedup: DedupConfig = DedupConfig()
    """Near-duplicates."""
    seed: int = 0
    """Seed of the split; apart from the run's seed, so that runs with several seeds share their splits."""
    quarantine: Literal["fail", "max_fraction", "keep_going"] = "fail"
    """Bad rows: `fail` stops after the full report, `max_fraction` tolerates a share, `keep_going` all."""
    quarantine_max_fraction: Fraction = 0.01
    """The share of rows that `quarantine: max_fraction` tolerates."""
    control_tokens: Literal["quarantine", "as_text"] = "quarantine"
    """Rows whose contents hold what chat models have as control tokens (`<|im_end|>`, `[INST]`): `quarantine`, for
    most such files are rendered templates; `as_text` keeps them. Either way a content never becomes one."""
    on_overflow: Literal["error", "drop", "truncate"] = "error"
    """What a row longer than `training.max_length` does to a run: `error` stops it, `drop` leaves the row out,
    `truncate` keeps its first turns, as many as fit, or else the beginning of its first answer. Each such row is
    listed in the run's overflow.jsonl; `evaluate` never cuts."""

    @model_validator(mode="after")
    def fractions_leave_rows_to_train_on(self) -> DatasetConfig:
        if self.val_fraction + self.test_fraction >= 1.0:
            raise ValueError("val_fraction + test_fraction must be below 1")
        return self


class ModelConfig(Section):
    """The base model, pinned."""

    name_or_path: Text
    """Hub id (`Qwen/Qwen3-8B`), folder, or `package_name/file.gguf` of an installed Python package."""
    source: Literal["hub", "folder", "package"] = "hub"
    """Where `fetch` finds it."""
    revision: Text | None = None
    """Hub: the commit, 40 hex digits. Package: its version. Folder: not used."""
    dtype: Literal["auto", "bfloat16", "float32"] = "bfloat16"
    """Type of the weights (of those that quantisation leaves alone) and of the computation. `auto`: bfloat16, but
    float32 with `device: cpu` on a processor without AVX-512, where bfloat16 is some twenty times slower."""
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    """Attention of transformers."""
    chat_template_path: Text | None = None
    """A Jinja file that replaces the model's own chat template."""

    @model_validator(mode="after")
    def hub_id_is_one(self) -> ModelConfig:
        if self.source == "hub" and not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", self.name_or_path):
            raise ValueError("name_or_path is no hub id (ORGANISATION/MODEL); a folder on disk needs source: folder")
        return self

    @model_validator(mode="after")
    def revision_is_pinned(self) -> ModelConfig:
        if self.source == "hub" and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                "revision must be a commit (40 hex digits, lower case): branches and tags move; "
                "the model's page on the hub lists commits under 'Files and versions'"
            )
        if self.source == "package" and (not self.revision or not self.name_or_path.endswith(".gguf")):
            raise ValueError(
                "source: package needs name_or_path: PACKAGE/FILE.gguf and revision: the package's version"
            )
        if self.source == "folder" and self.revision is not None:
            raise ValueError("revision has no meaning with source: folder; its files are hashed instead")
        return self


class LoraConfig(Section):
    """The adapter; names and meaning of peft.LoraConfig."""

    r: Positive = 16
    """Rank."""
    lora_alpha: Positive = 32
    """Scale: the adapter's product is multiplied by lora_alpha / r (or / sqrt(r) with use_rslora)."""
    lora_dropout: Fraction = 0.0
    """Dropout on the adapter's input; a tenth slower."""
    target_modules: Literal["all-linear"] | Annotated[Strings, Field(min_length=1)] = "all-linear"
    """`all-linear` (every linear layer but the output head) or a list of module names."""
    use_rslora: bool = False
    """Rank-stabilised scale."""


class QuantizationConfig(Section):
    """Present: QLoRA. Absent: LoRA. Names and meaning of transformers.BitsAndBytesConfig."""

    load_in_4bit: Literal[True] = True
    """Store the base model's linear layers in 4 bits; LoRA without that is `quantization: null`."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """4-bit data type."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the scales too."""
    bnb_4bit_compute_dtype: Literal["auto", "bfloat16", "float32"] = "bfloat16"
    """Type in which the quantised layers compute; `auto`: as `model.dtype`."""

    @field_validator("load_in_4bit", mode="before")
    @classmethod
    def absent_when_not_wanted(cls, value: object) -> object:
        if value is False:
            raise ValueError(
                "false; for LoRA on the unquantised model leave the section out, or write quantization: null"
            )
        return value


class TrainingConfig(Section):
    """A chosen part of trl.SFTConfig; the loss is on the assistant's tokens only, always."""

    learning_rate: PositiveNumber = 2e-4
    """Peak learning rate."""
    num_train_epochs: PositiveNumber = 1.0
    """Passes over the training split."""
    max_steps: Annotated[int, Field(ge=-1)] = -1
    """Optimiser steps, at least 1; -1: as many as num_train_epochs makes."""
    per_device_train_batch_size: Positive = 1
    """Sequences (packs, with packing) in one forward pass."""
    gradient_accumulation_steps: Positive = 8
    """Forward passes for one optimiser step; the loss is weighted by token over all of them."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens in a sequence (in a pack, with packing). A longer row: see dataset.on_overflow."""
    packing: bool = True
    """Several rows in one sequence; they don't see each other."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate."""
    warmup_steps: NotNegative = 0.03
    """Steps of warm-up; below 1 it is a share of all steps."""
    weight_decay: NotNegative = 0.0
    """AdamW's weight decay."""
    max_grad_norm: PositiveNumber = 1.0
    """Gradients are clipped to this norm."""
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = "adamw_torch_fused"
    """Optimiser. The adapter is small: 8-bit states save little."""
    activation_checkpointing: bool | None = None
    """Compute activations again in the backward pass, for less memory and up to a third more time: `true` in all
    layers, `false` in none; null: on a GPU in as many as its memory demands, on a CPU in none."""
    logging_steps: Positive = 1
    """Steps between two lines of metrics.jsonl."""
    eval_steps: Annotated[int, Field(ge=0)] = 50
    """Steps between two evaluations on val; 0: none."""
    save_steps: Positive = 50
    """Steps between two checkpoints."""
    save_total_limit: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept; never below 2, so that a damaged one has one before it."""
    report_to: Annotated[tuple[Literal["mlflow", "trackio", "wandb"], ...], Field(strict=False)] = ()
    """Trackers that get what metrics.jsonl gets, where their packages are installed. They write into the run's
    `reporting/` and send nothing, unless the environment says otherwise (WANDB_MODE, MLFLOW_TRACKING_URI)."""

    @field_validator("report_to", mode="before")
    @classmethod
    def tensorboard_is_always_there(cls, value: object) -> object:
        if isinstance(value, list | tuple) and "tensorboard" in value:
            raise ValueError("TensorBoard's event file lies beside metrics.jsonl anyway; leave it out")
        return value

    @field_validator("max_steps")
    @classmethod
    def steps_are_counted_or_left_open(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 steps train nothing; -1 makes as many as num_train_epochs needs")
        return value

    @field_validator("warmup_steps")
    @classmethod
    def warmup_is_a_share_or_whole_steps(cls, value: float) -> float:
        if value >= 1 and value != int(value):
            raise ValueError(f"{value} is neither a share of all steps (below 1) nor a whole number of steps")
        return value


class CardConfig(Section):
    """How a step is cut to fit the GPU. The effective batch, and so what is learned, stays what `training` says."""

    vram_gib: PositiveNumber | None = None
    """GiB of the GPU that a stage may take; null: all but 1.5, which desktop, CUDA and fragmentation need. It is
    enforced, because WSL would go on in the PC's memory instead of failing, several times slower."""
    tokens_per_micro_batch: Positive | None = None
    """Tokens in one forward pass, a multiple of training.max_length; null: what is fastest on this GPU."""


class SuiteConfig(Section):
    """What `evaluate --suite` asks base and adapter besides: tasks of lm-evaluation-harness."""

    tasks: Strings = ()
    """Their names, or those of groups; `fetch` brings the rows of those that come with lm-evaluation-harness."""
    include_path: Text | None = None
    """A folder with YAML files of own tasks, with their rows in files (`dataset_path: json`,
    `dataset_kwargs: {data_files: FILE}`); null: only those that come with lm-evaluation-harness."""
    limit: Positive | None = None
    """Rows of each task; null: all."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; null: as the task has it."""
    batch_size: Positive = 8
    """Rows side by side."""


class EvaluationConfig(Section):
    """What `evaluate` measures, on base model and adapter alike."""

    split: Split = "test"
    """The split that is measured."""
    metrics: Metrics = ("exact_match",)
    """Task metrics, each a name, or a name with its options: `{regex: {pattern: "^[0-9]+$"}}`; empty: loss and
    perplexity only, nothing is generated."""
    metrics_by_tag: dict[str, Metrics] = {}
    """Further metrics for the rows that carry a tag (`meta.tags`)."""
    max_new_tokens: Positive = 256
    """Longest generated answer."""
    batch_size: Positive = 16
    """Rows generated side by side."""
    max_examples: Positive | None = None
    """Measure N rows only, spread over the split; null: all."""
    gguf_examples: Positive | None = 64
    """Of these N for a GGUF, which llama.cpp runs on the CPU; null: all. It is compared with base and adapter on the
    same rows."""
    suite: SuiteConfig | None = None
    """Did it forget? What `--suite` asks; null: tasks are named there."""

    @field_validator("metrics_by_tag")
    @classmethod
    def tags_are_not_empty(cls, value: dict[str, Metrics]) -> dict[str, Metrics]:
        if any(not tag for tag in value):
            raise ValueError("a tag can't be empty")
        return value


class ExportConfig(Section):
    """What `export` writes and how close it must be to what was measured."""

    merge_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type in which a merged model is stored."""
    proof_examples: Positive = 64
    """Held-out rows, spread over the split, on which what is exported is scored beside the adapter."""
    max_loss_difference: PositiveNumber = 0.01
    """Largest |loss of merged - loss of adapter| in nats a token that passes."""
    max_kl: PositiveNumber = 0.01
    """Largest KL divergence from the adapter's probabilities, in nats a token, that passes. SmolLM2 after 40 steps of
    QLoRA: 0.0008 merged into the weights that it was trained on, 0.1 into the original ones."""
    min_greedy_agreement: Annotated[float, Field(gt=0, le=1)] = 0.97
    """Smallest share of positions at which merged model and adapter must find the same token likeliest; there 0.994
    and 0.936."""
    gguf_tolerance: Annotated[float, Field(gt=0, le=2)] = 1.0
    """For GGUF types below 16 bits these bounds are wider, by type; this factor widens or narrows them. Beyond 2
    nothing could fail."""


class RunConfig(Section):
    """A whole experiment."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$")] = "run"
    """Part of the run's id; by default the config file's name."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the adapter's first values, dropout and data order."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Where the model runs. Never chosen in silence: a run on a CPU is asked for."""
    determinism: Literal["strict", "seeded", "off"] = "strict"
    """`strict`: deterministic kernels, the same adapter twice. `seeded` (or `off`): seeds only."""
    dataset: DatasetConfig
    model: ModelConfig
    lora: LoraConfig = LoraConfig()
    quantization: QuantizationConfig | None = None
    training: TrainingConfig = TrainingConfig()
    card: CardConfig = CardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def micro_batches_make_up_the_effective_batch(self) -> RunConfig:
        tokens, training = self.card.tokens_per_micro_batch, self.training
        sequences = training.per_device_train_batch_size * training.gradient_accumulation_steps
        if tokens is not None and (tokens % training.max_length or sequences % (tokens // training.max_length)):
            fitting = [n * training.max_length for n in range(1, sequences + 1) if sequences % n == 0]
            raise ValueError(
                f"card.tokens_per_micro_batch: {tokens} doesn't divide the effective batch of {sequences} sequences of "
                f"{training.max_length} tokens; these do: {', '.join(map(str, fitting))}"
            )
        return self
