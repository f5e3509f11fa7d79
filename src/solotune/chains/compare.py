"""Two trainings side by side, to the bit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from solotune import environment
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Difference, RunManifest, StepFingerprint, Verdict

LOGGED = ("loss", "grad_norm", "learning_rate", "tokens", "trained_tokens", "eval_loss")
"""Of a line of metrics.jsonl; the rest is time and memory, which no two runs share."""


def differs(then: RunManifest, now: RunManifest) -> list[str]:
    """What of machine, code, libraries and layout isn't the same in two runs, in words."""
    ours, theirs = ({**m.environment, "layout": msgspec.to_builtins(m.layout)} for m in (then, now))
    return environment.differences(ours, theirs)


def compare_fingerprints(run: RunDir, other: RunDir) -> Verdict:
    """Whether two trials left the same after each step."""
    ours, theirs = (
        {line.step: line for line in _fingerprints(r)}  # a step made again counts as it was last
        for r in (run, other)
    )
    steps = sorted(ours.keys() | theirs.keys())
    tensors = len(ours[steps[0]].adapter) + len(ours[steps[0]].optimizer) if steps and steps[0] in ours else 0
    first = next((d for step in steps if (d := _differing(step, ours.get(step), theirs.get(step)))), None)
    noise = [abs(ours[s].loss - theirs[s].loss) for s in steps if s in ours and s in theirs]
    return Verdict(
        first is None and bool(steps),
        f"order, loss, gradient norm and {tensors:,} tensors after each of {len(steps)} steps",
        first,
        max(noise, default=0.0),
    )


def compare_metrics(run: RunDir, other: RunDir, until: int | None = None) -> Verdict | None:
    """Whether two runs logged the same, in the steps that both logged; None where there are none.

    Args:
        until: look at no step after this one.
    """
    ours, theirs = (_logged(r, until) for r in (run, other))
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    # A stop logs where nothing else would: the line after it is of fewer steps, and another one.
    since, theirs_since = _windows(ours), _windows(theirs)
    alike = [step for step in common if since.get(step) == theirs_since.get(step)]
    keys = {step: LOGGED if step in alike else ("eval_loss",) for step in common}
    first = next((Difference(s, key) for s in common if (key := _differing_key(ours[s], theirs[s], keys[s]))), None)
    noise = [abs(ours[s].get("loss", 0.0) - theirs[s].get("loss", 0.0)) for s in alike]
    return Verdict(first is None, f"the log of {len(common)} steps", first, max(noise, default=0.0))


def _fingerprints(run: RunDir) -> Sequence[StepFingerprint]:
    lines = run.fingerprints.read_bytes().splitlines() if run.fingerprints.exists() else []
    return [msgspec.json.decode(line, type=StepFingerprint) for line in lines]


def _differing(step: int, ours: StepFingerprint | None, theirs: StepFingerprint | None) -> Difference | None:
    if ours is None or theirs is None:
        return Difference(step, "one of the two didn't come so far")
    plain = ("order_sha256", "loss", "grad_norm")
    found = [name.removesuffix("_sha256") for name in plain if getattr(ours, name) != getattr(theirs, name)]
    found += _differing_hashes("adapter", ours.adapter, theirs.adapter)
    found += _differing_hashes("optimizer", ours.optimizer, theirs.optimizer)
    return Difference(step, found[0]) if found else None


def _differing_hashes(of: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [f"{of}: {name}" for name in names if ours.get(name) != theirs.get(name)]


def _logged(run: RunDir, until: int | None) -> dict[int, dict[str, Any]]:
    """Step -> what was logged of it, training and evaluation together."""
    found: dict[int, dict[str, Any]] = {}
    for text in run.metrics.read_text(encoding="utf-8").splitlines() if run.metrics.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # cut by a kill
        if until is None or line["step"] <= until:
            found.setdefault(line["step"], {}).update({k: line[k] for k in LOGGED if k in line})
    return found


def _windows(logged: Mapping[int, Mapping[str, Any]]) -> dict[int, int]:
    """Step -> the one after which its line begins, for steps with a loss."""
    steps = [step for step in sorted(logged) if "loss" in logged[step]]
    return dict(zip(steps, [0, *steps], strict=False))


def _differing_key(ours: dict[str, Any], theirs: dict[str, Any], keys: Sequence[str]) -> str | None:
    # A trial may stop before it evaluates.
    return next((k for k in keys if k in ours and k in theirs and ours[k] != theirs[k]), None)
