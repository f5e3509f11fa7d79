"""export/merged: base + adapter as one model, on whichever base it behaves most like the adapter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import msgspec

from solotune.artifacts.files import atomic_folder, record_files
from solotune.artifacts.measured import Artefact
from solotune.console import Progress, say, table
from solotune.errors import ArtifactError, ProofError
from solotune.modeling import merge_proof
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.merge import tensor_count, write_merged
from solotune.stages.export import tolerance
from solotune.stages.export.model_card import Facts, merged_card
from solotune.stages.export.yardstick import Yardstick


class _Candidate(NamedTuple):
    """A merge that is written, proven and measured, and not in its place yet."""

    folder: Path
    artefact: Artefact


def refuse_no_base(facts: Facts, wanted: str | None) -> None:
    """Raises ArtifactError for a merge base that the run doesn't have."""
    if wanted not in (None, *_bases(facts)):
        raise ArtifactError(
            f"run {facts.run_dir.run_id} is no QLoRA, its base was never quantised", "Leave --merge-base out"
        )


def export_merged(facts: Facts, yardstick: Yardstick, scratch: Path, wanted: str | None) -> dict[str, Artefact]:
    """Writes each merge that the run can have, measures it, and keeps one.

    Args:
        facts: of the run.
        yardstick: what they are held against.
        scratch: a folder on the disk of the export.
        wanted: `dequantised` or `original`: keep that one; None: the one that the figures recommend.

    Returns:
        `merged`, and with QLoRA the other one as `merged-original` or `merged-dequantised`.

    Raises:
        ProofError: a merge isn't base + adapter, or the one to keep is beyond the tolerance.
    """
    bases = _bases(facts)
    made = {base: _merge(facts, yardstick, base, scratch / f"merged-{base}") for base in bases}
    best = min(bases, key=lambda base: _distance(made[base].artefact))
    kept = wanted or best
    _show(yardstick, made, best)
    _refuse_beyond_tolerance(yardstick, made, kept)
    found = {
        "merged" if base == kept else f"merged-{base}": msgspec.structs.replace(
            candidate.artefact, recommended=base == best
        )
        for base, candidate in made.items()
    }
    place = facts.run_dir.export / "merged"
    with atomic_folder(place) as folder:
        for file in sorted(made[kept].folder.iterdir()):
            file.rename(folder / file.name)
        (folder / "README.md").write_text(merged_card(facts, found), encoding="utf-8")
        files = record_files(folder)
    say(f"merged model, on the {kept} weights: {place}")
    return found | {"merged": msgspec.structs.replace(found["merged"], path="export/merged", files=files)}


def _bases(facts: Facts) -> tuple[str, ...]:
    return ("dequantised", "original") if facts.config.quantization else ("original",)


def _merge(facts: Facts, yardstick: Yardstick, kind: str, folder: Path) -> _Candidate:
    """Writes one merge, proves it tensor by tensor, and measures it as read back from the disk."""
    dtype, adapter = facts.config.export.merge_dtype, facts.run_dir.adapter
    weights = BaseWeights(facts.base, facts.config, dequantised=kind == "dequantised")
    folder.mkdir()
    tensors = tensor_count(facts.base)
    with Progress(f"merging into the {kind} weights", tensors, "tensors") as bar:
        changed = write_merged(weights, adapter, folder, dtype, on_tensors=bar.advance)
    other = BaseWeights(facts.base, facts.config, dequantised=kind == "original") if facts.config.quantization else None
    with Progress("proving it", tensors, "tensors") as bar:
        proof = merge_proof.check(
            folder, weights, adapter, dtype, facts.manifest.template_sha256, other=other, on_tensors=bar.advance
        )
    if proof.faults:
        raise ProofError(
            f"the merged model on the disk isn't what was trained: {'; '.join(proof.faults)}",
            "No merged model was exported; serve the adapter, and report this with the run's manifest.json",
        )
    say(
        f"{changed} layers merged, each proven to be its base's {kind} weight and the adapter's change; rounding to "
        f"{dtype} left {proof.update_kept:.1%} of that change, and of {proof.worst_layer} {proof.worst_kept:.1%}"
    )
    artefact = yardstick.measure_merged(f"merged ({kind})", folder, tolerance.of_merged(facts.config.export))
    shares = {"update_kept": proof.update_kept, "update_kept_worst": proof.worst_kept}
    artefact = msgspec.structs.replace(
        artefact, merge_base=kind, dtype=dtype, measured=artefact.measured | shares, worst_layer=proof.worst_layer
    )
    return _Candidate(folder, artefact)


def _distance(artefact: Artefact) -> tuple[bool, float]:
    """The less, the more like the adapter; a model whose KL is no number is furthest."""
    found = artefact.divergence
    assert found is not None
    return bool(artefact.failed), math.inf if found.kl_mean is None else found.kl_mean


def _show(yardstick: Yardstick, made: dict[str, _Candidate], best: str) -> None:
    trained = {"base": yardstick.trained.base_loss, "adapter": yardstick.trained.adapter_loss}
    rows = [[name, f"{loss:.4f}", "", "", "", ""] for name, loss in trained.items()]
    for kind, candidate in made.items():
        found = candidate.artefact.divergence
        assert found is not None
        rows.append(
            [
                f"merged, {kind} weights{_word(candidate.artefact, is_best=kind == best and len(made) > 1)}",
                f"{candidate.artefact.measured['loss']:.4f}",
                _shown(found.kl_mean, ".2e"),
                _shown(found.max_logit_difference, ".3f"),
                _shown(found.mean_logit_difference, ".4f"),
                f"{found.greedy_agreement:.2%}",
            ]
        )
    head = ["", "loss", "KL", "largest logit difference", "mean", "same likeliest token"]
    table(head, rows, f"read back from disk, on {yardstick.examples} held-out rows beside the adapter")


def _word(artefact: Artefact, *, is_best: bool) -> str:
    if artefact.failed:
        return " (too far)"
    return " (recommended)" if is_best else ""


def _shown(value: float | None, spec: str) -> str:
    return "no number" if value is None else format(value, spec)


def _refuse_beyond_tolerance(yardstick: Yardstick, made: dict[str, _Candidate], kept: str) -> None:
    artefact = made[kept].artefact
    if not artefact.failed:
        return
    fixes = [f"`--merge-base {kind}` passes" for kind, one in made.items() if not one.artefact.failed][:1]
    fixes.append(tolerance.what_helps(artefact))
    raise ProofError(
        f"the merge into the {kept} weights isn't close enough to the adapter on {yardstick.on_what}: "
        f"{'; '.join(artefact.failed)}",
        f"It wasn't exported: {'; '.join(fixes)}. The adapter is whole, and can be served",
    )
