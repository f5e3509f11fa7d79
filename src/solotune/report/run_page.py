"""report.html of one run: what its template shows, and the data that its scripts draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from solotune.artifacts.measured import EvalReport, PositionLoss
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest
from solotune.comparison import RESAMPLES, ROWS_FOR_A_VERDICT
from solotune.console import counted, duration
from solotune.dataset.report.histogram import Histogram, histograms
from solotune.report.answers import answers
from solotune.report.caveats import endings, noise, too_few
from solotune.report.curves import Curves, curves
from solotune.report.exported import exported_models
from solotune.report.findings import facts, findings, headline, lead, problems
from solotune.report.gathered import Gathered, flat, gather
from solotune.report.ledger import ledger
from solotune.report.measures import blocks, blocks_by_tag, worsened
from solotune.report.models import models
from solotune.report.page import render
from solotune.report.sameness import sameness
from solotune.report.settings import own_settings, shown_value
from solotune.report.verdict import word

_SCRIPTS = ("dom.js", "charts.js", "diff.js", "answers.js", "run.js")
_FILES = 60


def run_page(run_dir: RunDir) -> str:
    """The page, of what there is of the run."""
    run = gather(run_dir)
    report, manifest = run.report, run.manifest
    said = answers(run_dir.predictions) if report else None
    drawn = curves(run.log)
    positions = _positions(report) if report else None
    shown = {
        "report": report,
        "answers": said,
        "exported": exported_models(run.exported) if run.exported else None,
        "models": [table for table in models(report) if table.has_exports] if report else None,
        "suite": report.suite if report else None,
        "trained": _trained(run),
        "manifest": manifest,
        "sameness": sameness(manifest) if manifest else None,
    }
    return render(
        "run.html.jinja",
        _SCRIPTS,
        {"curves": _drawn(run, drawn), "positions": positions, "answers": said},
        **shown,
        contents=[(anchor, title) for anchor, title, key in _CONTENTS if not key or shown[key]],
        title=_title(run),
        verdict=word(report.comparison) if report else "cannot tell",
        headline=headline(run),
        lead=lead(run),
        findings=findings(run),
        problems=problems(run),
        facts=facts(run),
        measured=blocks(report) if report else [],
        resamples=RESAMPLES,
        rows_for_a_verdict=ROWS_FOR_A_VERDICT,
        caveats=[text for text in (too_few(report), noise(report), *endings(report)) if text] if report else [],
        other_splits=run.other_splits,
        by_tag=blocks_by_tag(report) if report else [],
        positions=_counts(report.adapter.by_position) if report and positions else "",
        worsened=worsened(report) if report else [],
        small_curves=_small_curves(drawn),
        ledger=ledger(run.splits, run_dir) if run.splits else None,
        histograms=_histograms(run),
        max_length=_max_length(run),
        own_settings=own_settings(run.settings),
        config=run.config,
        facts_of_manifest=_facts_of(manifest) if manifest else [],
    )


_CONTENTS = (
    ("measured", "What was measured", "report"),
    ("answers", "Answers", "answers"),
    ("exported", "What was exported", "exported"),
    ("models", "Every model on the same rows", "models"),
    ("suite", "Did it forget?", "suite"),
    ("training", "Training", "trained"),
    ("rows-used", "The rows", "manifest"),
    ("sameness", "The same again?", "sameness"),
    ("config", "Config and manifest", ""),
)
"""Anchor, title, and what has to be there."""


class _Title(NamedTuple):
    name: str
    run_id: str
    made: str
    """How, of what, and when."""


def _title(run: Gathered) -> _Title:
    settings, made = run.settings, []
    if model := settings.get("model.name_or_path"):
        method = "QLoRA" if settings.get("quantization.load_in_4bit") else "LoRA"
        made.append(f"{method} of {model}, rank {settings.get('lora.r', '?')}.")
    if run.manifest:
        made.append(f"Begun on {run.manifest.created[:10]} at {run.manifest.created[11:16]} UTC; {run.state}.")
    return _Title(run.name, run.run_dir.run_id, " ".join(made))


# Loss by place in the answer


def _positions(report: EvalReport) -> dict[str, Any] | None:
    if not report.adapter.by_position:
        return None
    number = {_place(one): i for i, one in enumerate(report.adapter.by_position)}
    both = {"adapter": report.adapter.by_position, "base": report.base.by_position}
    points = {
        name: [(number[_place(one)], one.loss) for one in of if _place(one) in number] for name, of in both.items()
    }
    return {"places": list(number), **points}


def _place(one: PositionLoss) -> str:
    """Where people read them, tokens are counted from 1."""
    return f"{one.start + 1}" if one.end <= one.start + 1 else f"{one.start + 1}–{one.end}"


def _counts(by_position: Sequence[PositionLoss]) -> str:
    return ", ".join(f"{one.tokens:,} at {_place(one)}" for one in by_position)


# Training


def _trained(run: Gathered) -> str:
    if not run.log:
        return ""
    outcome, layout = (run.manifest.outcome, run.manifest.layout) if run.manifest else (None, None)
    if outcome is None:
        return f"Up to step {run.log[-1].step:,}."
    epochs = f"{outcome.epochs:.3g}"
    text = (
        f"{counted(outcome.steps, 'step')}, {epochs} {'epoch' if epochs == '1' else 'epochs'}, "
        f"{outcome.tokens:,} tokens ({outcome.trained_tokens:,} of them with a label) in {duration(outcome.seconds)}."
    )
    if layout:
        text += f" A step is {counted(layout.accumulation, 'forward pass')} of {counted(layout.sequences, 'sequence')}."
    return text


def _drawn(run: Gathered, drawn: Curves) -> dict[str, Any]:
    """The curves, and what stands in the charts beside them."""
    rehearsal = run.manifest.rehearsal if run.manifest else None
    resumes = [entry.get("from_step") for entry in run.manifest.resumes] if run.manifest else []
    return {
        **msgspec.to_builtins(drawn),
        "resumes": [step for step in resumes if isinstance(step, int) and step > 0],
        "max_grad_norm": run.settings.get("training.max_grad_norm"),
        "vram_allowed": rehearsal.allowed_bytes / 2**30 if rehearsal and rehearsal.allowed_bytes else None,
    }


def _small_curves(drawn: Curves) -> list[tuple[str, str]]:
    """Id and caption of those that have points."""
    captions = {
        "rate-curve": ("Learning rate.", drawn.learning_rate),
        "norm-curve": ("Norm of the gradient, before it is clipped.", drawn.grad_norm),
        "speed-curve": ("Tokens a second, padding apart.", drawn.tokens_per_second),
        "vram-curve": ("GPU memory handed out up to then, at most.", drawn.vram_gib),
    }
    return [(anchor, caption) for anchor, (caption, points) in captions.items() if points]


# The rows


def _max_length(run: Gathered) -> int:
    limit = run.settings.get("training.max_length")
    return limit if isinstance(limit, int) else 0


def _histograms(run: Gathered) -> list[tuple[str, Histogram, str]]:
    data = run.manifest.data if run.manifest else {}
    by_split = {split: of.by_length for split, of in data.items() if of.by_length}
    drawn = histograms(by_split, _max_length(run))
    return [(split, drawn[split], _lengths(by_split[split])) for split in drawn]


def _lengths(by_length: Sequence[tuple[int, int]]) -> str:
    rows, seen, median = sum(n for _, n in by_length), 0, 0
    for tokens, n in by_length:
        seen += n
        if seen >= rows / 2:
            median = tokens
            break
    return f"median {median:,}, longest {by_length[-1][0]:,} tokens"


# The manifest


def _facts_of(manifest: RunManifest) -> list[tuple[str, list[tuple[str, str]]]]:
    made_by = {
        name: getattr(manifest, name)
        for name in ("created", "seed", "determinism", "config_sha256", "template_sha256", "order_sha256")
    }
    files = {
        **{f"base model: {name}": of for name, of in manifest.base_model.items()},
        **{f"splits: {name}": of for name, of in manifest.splits.items()},
        **{f"adapter: {name}": of for name, of in (manifest.outcome.adapter if manifest.outcome else {}).items()},
    }
    hashes = [(name, f"{of.sha256}, {of.bytes:,} bytes") for name, of in list(files.items())[:_FILES]]
    return [
        ("What made this run", _entries(made_by)),
        ("The machine and the code", _entries(flat(manifest.environment))),
        ("Files that it was made of", hashes),
    ]


def _entries(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, shown_value(value)) for key, value in values.items()]
