"""Whether a merged model, as it lies on the disk, is base + adapter and nothing else; what is wrong with it, by name.

The merge takes PEFT's arithmetic. Here the adapter's change is computed from its files alone, so that a fault of
either shows. Each stored weight must be the nearest of its type to W + ΔW, but for what float32 rounds on the way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file

from solotune.artifacts.files import sha256_file, sha256_text
from solotune.console import safe
from solotune.errors import ModelError
from solotune.modeling import merge, shards
from solotune.modeling.base_weights import BaseWeights

_ENOUGH = 0.5
"""Of the update. SmolLM2 after 40 steps keeps 0.994 of it in bfloat16."""
_BLOCK = 1 << 22
"""Weights that are compared at a time."""


@dataclass(frozen=True)
class Change:
    """What an adapter adds to one weight: scale · B @ A."""

    a: torch.Tensor
    """(rank, in), float32."""
    b: torch.Tensor
    """(out, rank), float32."""
    scale: float


@dataclass(frozen=True)
class Proof:
    """What was found."""

    faults: list[str]
    """What is wrong, a sentence each; empty: nothing."""
    update_kept: float
    """Of what the adapter adds, the share that rounding left: (stored - W) projected on ΔW, over all layers."""
    worst_layer: str = ""
    """The one of which least is left; empty where the adapter adds nothing anywhere."""
    worst_kept: float = 0.0
    """The share that is left of it."""


@dataclass
class _Found:
    """Names of tensors, by what is wrong with them."""

    skipped: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    other_kind: list[str] = field(default_factory=list)
    neither: list[str] = field(default_factory=list)
    untouched: list[str] = field(default_factory=list)
    kept: dict[str, float] = field(default_factory=dict)
    """Of each layer that the adapter changes, the sum of (stored - W) · ΔW."""
    asked: dict[str, float] = field(default_factory=dict)
    """Of the same, the sum of ΔW²; above 0."""

    def share(self, *names: str) -> float:
        """Of what the adapter adds to these layers, how much is left."""
        return math.fsum(self.kept[name] for name in names) / math.fsum(self.asked[name] for name in names)


def check(
    folder: Path,
    weights: BaseWeights,
    adapter: Path,
    dtype: str,
    template_sha256: str,
    *,
    other: BaseWeights | None = None,
    on_tensors: Callable[[int], None] = lambda _: None,
) -> Proof:
    """Compares every tensor and file of a merged model with what it must be.

    Args:
        folder: the merged model.
        weights: the base that the adapter must have been added to.
        adapter: the folder of the adapter.
        dtype: in which the weights must be stored.
        template_sha256: of the chat template that the run was trained with.
        other: the other merge base, to recognise it.
        on_tensors: called with the number of tensors done.
    """
    wrong, whole = _layout_faults(folder, weights, dtype)
    changes = read_changes(adapter)
    changes_left = set(changes)
    found = _Found()
    for shard, name in weights.tensors():
        if shard.name in whole:
            _compare(folder / shard.name, shard, name, weights, changes.get(name), other, found)
        changes_left.discard(name)
        on_tensors(1)
    if changes_left:
        wrong.append(f"no weights for what the adapter changes: {_names(sorted(changes_left))}")
    wrong += _told(found, weights, len(changes))
    wrong += _file_faults(folder, weights, dtype, template_sha256)
    if not found.asked:
        return Proof(wrong or ["it is the base model: the adapter adds nothing"], 0.0)
    kept, worst = found.share(*found.asked), min(found.asked, key=found.share)
    if not wrong and kept < _ENOUGH:
        wrong.append(f"it is nearly the base model: {kept:.0%} of what the adapter adds is left in {dtype}")
    return Proof(wrong, kept, worst.removesuffix(".weight"), found.share(worst))


def read_changes(adapter: Path) -> dict[str, Change]:
    """Name of a weight in the base's files -> what the adapter adds to it, from PEFT's files.

    The scale is lora_alpha / r, with rsLoRA lora_alpha / sqrt(r) (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    changes = {}
    for key, a in tensors.items():
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        if name == key.removeprefix("base_model.model."):
            continue
        rank = a.shape[0]
        alphas = config.get("alpha_pattern") or {}
        alpha = alphas.get(get_pattern_key(alphas.keys(), name), config["lora_alpha"])
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        b = tensors[key.replace(".lora_A.", ".lora_B.")]
        changes[f"{name}.weight"] = Change(a.float(), b.float(), scale)
    if 2 * len(changes) != len(tensors):
        raise ModelError(f"{adapter} holds more than LoRA of linear layers", "Serve it; it can't be merged")
    return changes


def _layout_faults(folder: Path, weights: BaseWeights, dtype: str) -> tuple[list[str], set[str]]:
    """What is wrong with the weight files, and the names of those whose tensors can be read."""
    wrong, whole = [], set()
    expected_files = {shard.name: shard for shard in weights.base.weight_files()}
    for name, shard in expected_files.items():
        if not (folder / name).is_file():
            wrong.append(f"{name} is missing")
            continue
        try:
            stored = shards.places(folder / name)
        except SafetensorError as error:
            wrong.append(f"{name} is cut or no safetensors file: {safe(str(error))}")
            continue
        expected = {n: merge.stored_as(place, dtype) for n, place in shards.places(shard).items()}
        differing = sorted(n for n in expected.keys() | stored.keys() if expected.get(n) != stored.get(n))
        if differing:
            wrong.append(f"{name}: {_names(differing)}: missing, added, or of another shape or type than the base's")
        else:
            whole.add(name)
    added = sorted(p.name for p in folder.glob("*.safetensors") if p.name not in expected_files)
    return wrong + [f"{name} isn't of the base model's files" for name in added], whole


def _compare(
    stored_in: Path,
    shard: Path,
    name: str,
    weights: BaseWeights,
    change: Change | None,
    other: BaseWeights | None,
    found: _Found,
) -> None:
    stored, base = shards.read(stored_in, name), weights.read(shard, name).cpu()
    if change is None:
        if not _same_bytes(stored, base.to(stored.dtype)):
            found.untouched.append(name)
        return
    kept = asked = 0.0
    for part, w, delta, _ in _blocks(stored, base, change):
        kept += float(((part.float() - w) * delta).sum())
        asked += float((delta * delta).sum())
    if asked:
        found.kept[name], found.asked[name] = kept, asked
    if _fits(stored, base, change, 1):
        return
    if _fits(stored, base, change, 0):
        found.skipped.append(name)
    elif _fits(stored, base, change, 2):
        found.twice.append(name)
    elif other is not None and _fits(stored, other.read(shard, name).cpu(), change, 1):
        found.other_kind.append(name)
    else:
        found.neither.append(name)


def _fits(stored: torch.Tensor, base: torch.Tensor, change: Change, times: int) -> bool:
    """Whether each stored weight is the nearest of its type to W + times · ΔW, or as near as float32 can tell."""
    slack = (change.a.shape[0] + 4) * 2.0**-24  # of each sum of products, relative to its terms
    for part, w, delta, terms in _blocks(stored, base, change):
        exact = w + times * delta
        nearest = exact.to(part.dtype).float()
        excess = (part.float() - exact).abs() - (nearest - exact).abs()
        if not bool((excess <= slack * (w.abs() + times * terms)).all()):
            return False
    return True


def _blocks(
    stored: torch.Tensor, base: torch.Tensor, change: Change
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Rows of a weight, some at a time: as stored, W, ΔW, and the size of the terms that ΔW is the sum of."""
    rows = max(1, _BLOCK // stored.shape[1])
    for start in range(0, stored.shape[0], rows):
        b = change.b[start : start + rows]
        w, delta = base[start : start + rows].float(), change.scale * (b @ change.a)
        yield stored[start : start + rows], w, delta, abs(change.scale) * (b.abs() @ change.a.abs())


def _same_bytes(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Equal to the bit, whatever is no number."""
    return torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))


def _told(found: _Found, weights: BaseWeights, adapted: int) -> list[str]:
    wrong = []
    if found.untouched:
        wrong.append(
            f"another base model is under it: {_names(found.untouched)} differ, where the adapter changes nothing"
        )
    if found.skipped:
        wrong.append(f"the adapter isn't in {_names(found.skipped)}: there is the base's own weight")
    if found.twice:
        wrong.append(f"the adapter is twice in {_names(found.twice)}")
    if found.other_kind:
        kind = "original" if weights.kind == "dequantised" else "dequantised"
        wrong.append(
            f"the adapter is on the {kind} weights instead of the {weights.kind} ones: {_names(found.other_kind)}"
        )
    if found.neither and not found.untouched:
        all_of_them = len(found.neither) == adapted
        wrong.append(
            f"another adapter is in it: none of the {adapted} adapted layers is base + this adapter"
            if all_of_them
            else f"{_names(found.neither)}: neither the base's weight nor base + adapter"
        )
    return wrong


def _file_faults(folder: Path, weights: BaseWeights, dtype: str, template_sha256: str) -> list[str]:
    base, wrong = weights.base, []
    template = folder / base.chat_template.name
    if not template.is_file() or sha256_file(template) != template_sha256:
        wrong.append(f"{template.name} isn't the one that the run was trained with")
    if (folder / merge.LEGACY_TEMPLATE).exists():
        wrong.append(f"{merge.LEGACY_TEMPLATE} would be taken for the chat template instead of {template.name}")
    expected = {file.name: sha256_file(file) for file in merge.copied(base)}
    expected |= {name: sha256_text(text) for name, text in merge.rewritten(base, dtype).items()}
    for name, sha256 in expected.items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            wrong.append(f"{name} isn't what the base model's makes it")
    return wrong


def _names(names: Sequence[str]) -> str:
    shown = safe(", ".join(names[:3]), 600)
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
