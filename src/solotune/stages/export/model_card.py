"""README.md of what is exported: what it is, what was measured on it, how it is served. For hubs and for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from solotune import __version__
from solotune.artifacts.measured import Artefact, Comparison, EvalReport, MetricSummary
from solotune.artifacts.model_dir import ModelDir, ModelManifest
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest
from solotune.config.schema import RunConfig
from solotune.config.vllm import max_lora_rank
from solotune.console import safe


@dataclass(frozen=True)
class Facts:
    """What every card tells."""

    run_dir: RunDir
    manifest: RunManifest
    config: RunConfig
    base: ModelDir
    fetched: ModelManifest

    @property
    def base_model(self) -> str:
        """What a server takes for the base model: its id on the hub, or the folder that `fetch` made."""
        return self.fetched.name_or_path if self.fetched.source == "hub" else f"models/{self.base.path.name}"

    @property
    def base_name(self) -> str:
        """How a card calls the base model; of a folder its name, for the rest is a place on this machine."""
        name = self.fetched.name_or_path
        return _text(Path(name).name if self.fetched.source == "folder" else name)


def adapter_card(facts: Facts, artefacts: Mapping[str, Artefact]) -> str:
    """Of export/adapter. `artefacts`: what was merged by the same command."""
    config = facts.config
    method = "QLoRA" if config.quantization else "LoRA"
    return _document(
        facts,
        library="peft",
        relation="adapter",
        what=f"A {method} adapter of rank {config.lora.r} for {facts.base_name}{_revision(facts)}.",
        sections=[*_evaluated(facts.run_dir.report()), *_exported(artefacts), *_serve_adapter(facts, artefacts)],
    )


def merged_card(facts: Facts, artefacts: Mapping[str, Artefact]) -> str:
    """Of export/merged. `artefacts`: the merge and the other one that was measured."""
    onto = {
        "dequantised": "its 4-bit weights, dequantised: those that the adapter was trained on",
        "original": f"its own weights in {facts.config.model.dtype}",
    }[artefacts["merged"].merge_base or "original"]
    folder = _command(f"{facts.run_dir.export}/merged")
    return _document(
        facts,
        library="transformers",
        relation="finetune",
        what=f"{facts.base_name}{_revision(facts)}, with an adapter of rank {facts.config.lora.r} "
        f"merged into {onto}. Stored in {facts.config.export.merge_dtype}.",
        sections=[
            *_evaluated(facts.run_dir.report()),
            *_exported(artefacts),
            "## Serve",
            f"vLLM and transformers take the chat template from `{facts.base.chat_template.name}` in this folder.",
            _shell(f"vllm serve {folder} --served-model-name {_command(facts.config.name)}"),
        ],
    )


def gguf_card(facts: Facts, name: str, artefact: Artefact, file: str) -> str:
    """Of export/gguf/<type>, for the GGUF `file` in it."""
    return _document(
        facts,
        library="gguf",
        relation="quantized",
        what=f"{facts.base_name}{_revision(facts)}, fine-tuned, as a GGUF of type "
        f"{name.removeprefix('gguf-')}. Made by {_text(artefact.made_by or 'llama.cpp')}.",
        sections=[
            *_evaluated(facts.run_dir.report()),
            *_exported({name: artefact}),
            "## Serve",
            "The chat template that the model was trained with is in the file; for Ollama it is in the Modelfile, too.",
            _shell(
                f"ollama create {_command(facts.config.name)} -f Modelfile",
                f"llama-server --jinja -m {_command(file)}",
            ),
        ],
    )


def _document(facts: Facts, *, library: str, relation: str, what: str, sections: Sequence[str]) -> str:
    front: dict[str, Any] = {
        "base_model": facts.fetched.name_or_path if facts.fetched.source == "hub" else None,
        "base_model_relation": relation if facts.fetched.source == "hub" else None,
        "library_name": library,
        "license": facts.fetched.license or "unknown",
        "pipeline_tag": "text-generation",
    }
    known = {key: safe(value, 400) for key, value in front.items() if value}
    licence = _text(facts.fetched.license or "not stated")
    parts = [
        f"---\n{yaml.safe_dump(known, allow_unicode=True)}---",
        f"# {facts.config.name}",
        f"{what} Made by solotune {__version__}, run {facts.run_dir.run_id}.",
        f"Licence of the base model: {licence}. It goes for what is made from it.",
        *sections,
        *_data(facts.manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _revision(facts: Facts) -> str:
    return f", revision `{facts.fetched.revision}`" if facts.fetched.revision else ""


def _evaluated(report: EvalReport | None) -> list[str]:
    """What `evaluate` measured on base and adapter, with 95 % intervals."""
    if report is None:
        return ["## Measured", "Not evaluated."]
    rows = [
        ["loss (nats a token)", f"{report.base.loss:.4f}", f"{report.adapter.loss:.4f}", _difference(report, "loss")]
    ]
    for name, adapter in report.adapter.metrics.items():
        base = report.base.metrics.get(name)  # a metric may apply to none of its answers
        rows.append([_text(name), _summary(base), _summary(adapter), _difference(report, name)])
    head = ["", "base", "adapter", "difference"]
    return [
        f"## Measured on {report.split}",
        f"{report.examples} held-out rows, {report.tokens:,} assistant tokens; 95 % intervals by bootstrap.",
        _table(head, rows),
    ]


def _summary(found: MetricSummary | None) -> str:
    return f"{found.value:.3f} [{found.ci95[0]:.3f}, {found.ci95[1]:.3f}]" if found else ""


def _difference(report: EvalReport, name: str) -> str:
    found: Comparison | None = report.comparison.get(name)
    if found is None:
        return ""
    return f"{found.difference:+.4f} [{found.ci95[0]:+.4f}, {found.ci95[1]:+.4f}], {found.verdict}"


def _exported(artefacts: Mapping[str, Artefact]) -> list[str]:
    """What was measured on exported models, beside the adapter on the same rows."""
    measured = {name: a for name, a in artefacts.items() if a.divergence is not None}
    if not measured:
        return []
    rows = []
    for name, artefact in measured.items():
        found = artefact.divergence
        assert found is not None
        into = f" (into {artefact.merge_base} weights)" if artefact.merge_base and "merged" in name else ""
        rows.append(
            [
                f"{name}{into}",
                f"{artefact.measured['loss']:.4f}",
                _number(found.kl_mean),
                _number(found.max_logit_difference),
                _number(found.mean_logit_difference),
                f"{found.greedy_agreement:.2%}",
                "yes" if artefact.passed else "no",
            ]
        )
    first = next(iter(measured.values())).measured
    head = ["", "loss", "KL", "largest logit difference", "mean", "same likeliest token", "passed"]
    said = (
        f"As written to the disk and read back, token by token on held-out rows. The adapter's loss there is "
        f"{first['adapter_loss']:.4f}, the base's {first['base_loss']:.4f}."
    )
    return ["## Held against the adapter", said, _table(head, rows)]


def _serve_adapter(facts: Facts, artefacts: Mapping[str, Artefact]) -> list[str]:
    config = facts.config
    folder = f"{facts.run_dir.export}/adapter"
    rank = max_lora_rank(config.lora.r)
    if rank is None:
        return ["## Serve", f"vLLM takes no adapter of rank {config.lora.r}: serve the merged model."]
    lines = [
        f"vllm serve {_command(facts.base_model)}",
        *([f"--revision {facts.fetched.revision}"] if facts.fetched.source == "hub" else []),
        *(["--quantization bitsandbytes --load-format bitsandbytes"] if config.quantization else []),
        f"--enable-lora --max-lora-rank {rank} --lora-modules {_command(f'{config.name}={folder}')}",
        f"--chat-template {_command(f'{folder}/{facts.base.chat_template.name}')}",
    ]
    told = []
    if config.quantization:
        told = [
            "It was trained on 4-bit weights, which vLLM makes by itself with `--quantization bitsandbytes` (NF4, with "
            "quantised scales). On 16-bit weights the base is another one than it was trained on"
            + (", with the figures of `merged-original` above." if "merged-original" in artefacts else ".")
        ]
    return ["## Serve", *told, _shell(" \\\n    ".join(lines))]


def _data(manifest: RunManifest) -> list[str]:
    rows = [
        [name.removesuffix(".jsonl"), str(manifest.data[split].rows) if split in manifest.data else "", f"`{r.sha256}`"]
        for name, r in manifest.splits.items()
        if (split := name.removesuffix(".jsonl")) in ("train", "val", "test")
    ]
    said = (
        f"Chat template: sha256 `{manifest.template_sha256}`. The base model's files and all else that made the run "
        "are in its manifest.json."
    )
    return ["## Made from", _table(["split", "rows", "sha256"], rows), said]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shell(*commands: str) -> str:
    return "```bash\n" + "\n".join(commands) + "\n```"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _text(text: str) -> str:
    """Text that somebody else chose, as text in Markdown and in the HTML that becomes of it."""
    return re.sub(r"([\\`*_\[\]<>|#&!~])", r"\\\1", safe(text, 400))


def _command(word: str | Path) -> str:
    return shlex.quote(safe(str(word), 400))
