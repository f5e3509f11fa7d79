"""Whether what claims to be whole is: manifests against the files that they speak of, by plain reading."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def broken(work: Path) -> list[str]:
    """Of all splits and runs of a workspace, what says that it is whole and isn't."""
    found = []
    for manifest in [work / "data" / "splits" / "manifest.json", *work.glob("data/splits/[!.]*/manifest.json")]:
        if not manifest.exists():
            continue
        found += _differing(manifest.parent, _read(manifest).get("outputs", {}), manifest)
    for run in work.glob("runs/[!.]*"):
        found += _broken_run(run)
    return found


def _broken_run(run: Path) -> list[str]:
    found = []
    manifest = run / "manifest.json"
    outcome = _read(manifest).get("outcome") if manifest.exists() else None
    if outcome:
        found += _differing(run / "adapter", outcome["adapter"], manifest)
    for checkpoint in run.glob("checkpoints/step-*"):
        own = checkpoint / "manifest.json"
        found += _differing(checkpoint, _read(own)["files"], own) if own.exists() else [f"{checkpoint}: no manifest"]
    report, predictions = run / "eval_report.json", run / "predictions.jsonl"
    if report.exists():
        lines = predictions.read_text().splitlines()
        found += [] if len(lines) == _read(report)["examples"] else [f"{report}: {len(lines)} predictions"]
        loss = sum(json.loads(line)["adapter"]["nll"] for line in lines) / _read(report)["tokens"]
        found += [] if abs(loss - _read(report)["adapter"]["loss"]) < 1e-9 else [f"{report}: of other predictions"]
    export = run / "export" / "export.json"
    if export.exists():
        kept = [artefact for artefact in _read(export)["artefacts"].values() if artefact["path"]]
        for artefact in kept:
            found += _differing(run / artefact["path"], artefact["files"], export)
    return found


def _differing(folder: Path, files: dict[str, Any], manifest: Path) -> list[str]:
    return [
        f"{manifest.parent.name}/{manifest.name} claims {name}"
        for name, record in files.items()
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != record["sha256"]
    ]


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())  # one that can't be read is a loss, and fails here
    return value
