"""export: adapter, and on request the merged model, proven on held-out rows as written to disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from solotune.artifacts.files import FileRecord, atomic_folder, record_files, remove_staged, write_json
from solotune.artifacts.lock import held
from solotune.artifacts.measured import Artefact, EvalReport, ExportRecord
from solotune.artifacts.model_dir import ModelDir, ModelManifest
from solotune.artifacts.run_dir import SCHEMA_VERSION, RunDir, RunManifest
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.load import load
from solotune.config.schema import RunConfig
from solotune.console import Progress, say, stage, table
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError, ProofError
from solotune.modeling import card, determinism
from solotune.modeling.base_model import load_base_model, load_plain_model
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.chat import ChatEncoder, Encoded
from solotune.modeling.likelihood import loss, perplexity, score
from solotune.modeling.lora import load_adapter
from solotune.modeling.merge import tensor_count, write_merged

RUNS = Path("runs")


@dataclass(frozen=True)
class _Proof:
    """What the merged model is held against, on the same rows."""

    rows: list[Encoded]
    base_loss: float
    adapter_loss: float


def run(wanted: str, *, merge: bool = False) -> ExportRecord:
    """Exports a finished run.

    Args:
        wanted: run id, unique prefix, or `latest`.
        merge: write base + adapter as one model, too.

    Raises:
        ArtifactError: the run isn't finished, or is exported already.
        ProofError: the merged model doesn't behave like the adapter; nothing is left in export/.
    """
    with stage("export"), ExitStack() as locks:
        run_dir = RunDir.find(RUNS, wanted)
        locks.enter_context(held(run_dir.path, command := f"export --run {run_dir.run_id}"))
        manifest, _ = run_dir.finished()
        config = load(run_dir.config_of(manifest))
        locks.enter_context(held(Path(config.dataset.splits_dir), command, shared=True))
        if run_dir.export_record.exists():
            raise ArtifactError(
                f"{run_dir.export} is there already", f"Delete it to export again: `rm -r {run_dir.export}`"
            )
        shutil.rmtree(run_dir.export, ignore_errors=True)  # without its record it was never finished
        remove_staged(run_dir.path)
        base = ModelDir.of(config.model)
        fetched = base.open(hashes=True)
        if fetched.files != manifest.base_model:
            raise ArtifactError(f"the base model in {base.path} isn't the one that was trained on", "Fetch that one")
        artefacts = {}
        examples = 0
        try:
            _export_adapter(run_dir, manifest, fetched, config)
            adapter = run_dir.export / "adapter"
            say(f"adapter for PEFT and vLLM: {adapter}")
            measured: dict[str, float] = {}
            if merge:
                artefacts["merged"], proof = _export_merged(run_dir, manifest, config, base)
                examples = len(proof.rows)
                measured = {"loss": proof.adapter_loss, "perplexity": perplexity(proof.adapter_loss)}
            artefacts["adapter"] = Artefact("export/adapter", record_files(adapter), None, measured, {}, None)
        except BaseException:
            shutil.rmtree(run_dir.export, ignore_errors=True)
            raise
        record = ExportRecord(SCHEMA_VERSION, run_dir.run_id, examples, artefacts)
        write_json(run_dir.export_record, record)
        say(f"record: {run_dir.export_record}")
    return record


def _export_adapter(run_dir: RunDir, manifest: RunManifest, base: ModelManifest, config: RunConfig) -> None:
    with atomic_folder(run_dir.export / "adapter") as folder:
        for file in run_dir.adapter.iterdir():
            shutil.copyfile(file, folder / file.name)
        (folder / "README.md").write_text(_model_card(run_dir, manifest, base, config), encoding="utf-8")


def _export_merged(
    run_dir: RunDir, manifest: RunManifest, config: RunConfig, base: ModelDir
) -> tuple[Artefact, _Proof]:
    determinism.start(config)
    card.enforce(config)
    encoder = ChatEncoder.open(base, str(run_dir.adapter / base.chat_template.name))
    rows = _proof_rows(config, manifest, encoder)
    merged = run_dir.export / "merged"
    with atomic_folder(merged) as folder:
        proof = _merge(config, run_dir, base, rows, folder)
        # Read back from the disk, without quantisation, as whoever serves it will.
        plain = load_plain_model(
            str(folder), config.export.merge_dtype, config.device, config.model.attn_implementation
        )
        with Progress("merged: scoring", len(rows), "rows") as bar:
            merged_loss = loss(score(plain, rows, config, on_rows=bar.advance))
        del plain
        measured = {
            "loss": merged_loss,
            "perplexity": perplexity(merged_loss),
            "adapter_loss": proof.adapter_loss,
            "base_loss": proof.base_loss,
            "difference": merged_loss - proof.adapter_loss,
        }
        table(
            ["", "base", "adapter", "merged"],
            [
                [
                    "loss (nats a token)",
                    f"{proof.base_loss:.4f}",
                    f"{proof.adapter_loss:.4f}",
                    f"{merged_loss:.4f}",
                ]
            ],
            f"the merged model, read back from disk, on {len(rows)} held-out rows",
        )
        refuse_unfaithful(proof.base_loss, proof.adapter_loss, merged_loss, config.export.max_loss_difference)
        files = record_files(folder)
    say(f"merged model: {merged}")
    merge_base = "dequantised" if config.quantization else config.model.dtype
    tolerance = {"max_loss_difference": config.export.max_loss_difference}
    return Artefact("export/merged", files, merge_base, measured, tolerance, True), proof


def _merge(config: RunConfig, run_dir: RunDir, base: ModelDir, rows: list[Encoded], folder: Path) -> _Proof:
    model = load_adapter(load_base_model(base, config), run_dir.export / "adapter")
    with Progress("adapter and base: scoring", 2 * len(rows), "rows") as bar:
        adapter_loss = loss(score(model, rows, config, on_rows=bar.advance))
        with model.disable_adapter():
            base_loss = loss(score(model, rows, config, on_rows=bar.advance))
    del model
    weights = BaseWeights(base, config, dequantised=config.quantization is not None)
    with Progress("merging", tensor_count(base), "tensors") as bar:
        changed = write_merged(weights, run_dir.adapter, folder, config.export.merge_dtype, on_tensors=bar.advance)
    say(f"{changed} layers merged")
    return _Proof(rows, base_loss, adapter_loss)


def refuse_unfaithful(base: float, adapter: float, merged: float, tolerance: float) -> None:
    """Raises ProofError when the merged model's loss is nearer to the base's, or beyond the tolerance."""
    if abs(merged - base) < abs(merged - adapter):
        raise ProofError(
            f"the merged model's loss is {merged:.4f}, and the base's {base:.4f} is nearer to it than the adapter's "
            f"{adapter:.4f}: it behaves like the base model, the adapter is lost",
            "Nothing was exported; serve the adapter, and report this with the run's manifest.json",
        )
    if abs(merged - adapter) > tolerance:
        raise ProofError(
            f"the merged model's loss is {merged:.4f}, the adapter's {adapter:.4f} (tolerance {tolerance})",
            "Nothing was exported; serve the adapter, or raise export.max_loss_difference if you can live with it",
        )


def _proof_rows(config: RunConfig, manifest: RunManifest, encoder: ChatEncoder) -> list[Encoded]:
    splits = SplitsDir(Path(config.dataset.splits_dir))
    if splits.open(config.dataset).outputs != manifest.splits:
        raise ArtifactError(f"{splits.path} isn't what the run was trained on", "Prepare that data again")
    some = islice(read_rows(splits.split(config.evaluation.split)), config.export.proof_examples)
    rows = [tokens.with_labels() for tokens in encoder.encode_batch([row.messages for row in some])]
    if not rows:
        raise DataError(
            f"{splits.split(config.evaluation.split)} is empty: a merge can't be proven without held-out rows"
        )
    return rows


def _model_card(run_dir: RunDir, manifest: RunManifest, base: ModelManifest, config: RunConfig) -> str:
    method = "QLoRA" if config.quantization else "LoRA"
    lines = [
        "---",
        f"base_model: {base.name_or_path}",
        "library_name: peft",
        "pipeline_tag: text-generation",
        f"license: {base.license or 'unknown'}",
        "---",
        "",
        f"# {config.name}",
        "",
        f"A {method} adapter (rank {config.lora.r}) for {base.name_or_path}, revision {base.revision or 'see hashes'}.",
        f"Made by solotune, run {run_dir.run_id}. The licence of the base model goes for it too.",
        "",
        *_figures(run_dir.report()),
        "## Data",
        "",
        *[f"- {name}: sha256 {record.sha256}" for name, record in _split_files(manifest.splits)],
        "",
        "## Use",
        "",
        "The chat template that it was trained with is `chat_template.jinja`, in this folder.",
        "",
        "```bash",
        f"vllm serve {base.name_or_path} --enable-lora --lora-modules {config.name}=export/adapter \\",
        "    --chat-template export/adapter/chat_template.jinja",
        "```",
        "",
    ]
    return "\n".join(lines)


def _figures(report: EvalReport | None) -> Sequence[str]:
    if report is None:
        return ["Not evaluated.", ""]
    rows = [f"| loss (nats a token) | {report.base.loss:.4f} | {report.adapter.loss:.4f} |"]
    rows += [
        f"| {name} | {report.base.metrics[name].value:.3f} | {summary.value:.3f} |"
        for name, summary in report.adapter.metrics.items()
    ]
    head = [
        f"## Measured on {report.split} ({report.examples} rows)",
        "",
        "| | base | adapter |",
        "|---|---|---|",
    ]
    return [*head, *rows, ""]


def _split_files(splits: dict[str, FileRecord]) -> list[tuple[str, FileRecord]]:
    return [(name, record) for name, record in splits.items() if name in ("train.jsonl", "val.jsonl", "test.jsonl")]
