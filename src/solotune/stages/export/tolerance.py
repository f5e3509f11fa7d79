"""How far an exported model may be from the adapter, and whether it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from solotune.artifacts.measured import Artefact, Divergence
from solotune.config.schema import ExportConfig

Tolerance = dict[str, float]

_BY_BITS = {
    8: {"max_loss_difference": 0.02, "max_kl": 0.02, "min_greedy_agreement": 0.96},
    6: {"max_loss_difference": 0.03, "max_kl": 0.04, "min_greedy_agreement": 0.94},
    5: {"max_loss_difference": 0.08, "max_kl": 0.08, "min_greedy_agreement": 0.92},
    4: {"max_loss_difference": 0.12, "max_kl": 0.2, "min_greedy_agreement": 0.88},
    3: {"max_loss_difference": 0.3, "max_kl": 0.5, "min_greedy_agreement": 0.8},
    2: {"max_loss_difference": 1.0, "max_kl": 1.5, "min_greedy_agreement": 0.6},
}
"""Bits of a quantised GGUF type -> what its rounding may do; benchmarks/README.md has what it did."""


def of_merged(export: ExportConfig) -> Tolerance:
    """Of a merged model, and of a GGUF with 16 bits or more."""
    return {
        "max_loss_difference": export.max_loss_difference,
        "max_kl": export.max_kl,
        "min_greedy_agreement": export.min_greedy_agreement,
    }


def of_gguf(export: ExportConfig, kind: str) -> Tolerance:
    """Of a GGUF: what its bits allow, times export.gguf_tolerance; with 16 bits or more as of a merged model.

    Args:
        export: the config's section.
        kind: a type of `gguf_export`: the first digit of a quantised one (q4_k_m) is its bits.
    """
    if not kind.startswith("q"):
        return of_merged(export)
    factor, own = export.gguf_tolerance, _BY_BITS[int(kind[1])]
    return {
        "max_loss_difference": factor * own["max_loss_difference"],
        "max_kl": factor * own["max_kl"],
        "min_greedy_agreement": 1 - factor * (1 - own["min_greedy_agreement"]),
    }


_LARGEST_FACTOR = 2.0
"""That export.gguf_tolerance takes."""
_AS_FAR_AS_THE_BASE = 0.9
"""Of the base's KL from the adapter. PEFT's merge on 4-bit weights, which erases a short run, was at 0.94."""


@dataclass(frozen=True)
class Trained:
    """What an export is held against: losses in nats a token, and the base's KL from the adapter, on the same rows."""

    adapter_loss: float
    base_loss: float
    base_kl: float


def failures(loss: float, trained: Trained, found: Divergence, tolerance: Tolerance) -> list[str]:
    """What of the figures isn't within the tolerance, a sentence each.

    Args:
        loss: the exported model's, in nats a token.
        trained: adapter and base.
        found: how the exported model's probabilities differ from the adapter's.
        tolerance: as `of_merged` gives it.
    """
    failed = []
    base, adapter = trained.base_loss, trained.adapter_loss
    if _is_lost(loss, trained, found):
        failed.append(
            f"its loss is {loss:.4f}, nearer to the base's {base:.4f} than to the adapter's {adapter:.4f}, and its "
            f"KL from the adapter {found.kl_mean:.3g} as large as the base's {trained.base_kl:.3g}: "
            "it behaves like the base model, the adapter is lost"
        )
    elif not abs(loss - adapter) <= (allowed := tolerance["max_loss_difference"]):
        failed.append(f"its loss is {loss:.4f}, the adapter's {adapter:.4f} (max_loss_difference {allowed:g})")
    if found.kl_mean is not None and not found.kl_mean <= (allowed := tolerance["max_kl"]):
        failed.append(f"its KL from the adapter is {found.kl_mean:.3g} nats a token (max_kl {allowed:g})")
    if found.greedy_agreement < (allowed := tolerance["min_greedy_agreement"]):
        failed.append(
            f"it finds the same token likeliest as the adapter at {found.greedy_agreement:.2%} of the positions "
            f"(min_greedy_agreement {allowed:g})"
        )
    return failed


def what_helps(artefact: Artefact, kind: str | None = None) -> str:
    """What to do about an export that failed: other types, and overrides with which it would pass.

    Args:
        artefact: as it was measured.
        kind: of a GGUF.
    """
    if kind is None or not kind.startswith("q"):
        overrides = _that_would_pass(artefact)
        return _lets_pass(overrides) if overrides else "no bound would help"
    bits = int(kind[1])
    more = "f16 has more bits" if bits == 8 else "q8_0 and f16 have more bits"
    factor = _factor(artefact, bits)
    if factor is None or factor > _LARGEST_FACTOR:
        return more
    return f"{more}; {_lets_pass([f'--set export.gguf_tolerance={_up(factor)}'])}"


def _lets_pass(overrides: Sequence[str]) -> str:
    return f"if you can live with it, `{' '.join(overrides)}` lets it pass"


def _that_would_pass(artefact: Artefact) -> list[str]:
    """Overrides of the config with which a merged model that failed would pass; none where the adapter is lost."""
    found, was = _as_measured(artefact), artefact.measured
    if found is None:
        return []
    overrides = []
    for key, value in (("max_loss_difference", abs(was["difference"])), ("max_kl", found.kl_mean)):
        if value > artefact.tolerance[key]:
            overrides.append(f"--set export.{key}={_up(value)}")
    if found.greedy_agreement < artefact.tolerance["min_greedy_agreement"]:
        overrides.append(f"--set export.min_greedy_agreement={math.floor(found.greedy_agreement * 100) / 100:g}")
    return overrides


def _factor(artefact: Artefact, bits: int) -> float | None:
    """By how much the bounds of a type would have to be wider; None where no bound would do."""
    found, was, own = _as_measured(artefact), artefact.measured, _BY_BITS[bits]
    if found is None:
        return None
    return max(
        abs(was["difference"]) / own["max_loss_difference"],
        found.kl_mean / own["max_kl"],
        (1 - found.greedy_agreement) / (1 - own["min_greedy_agreement"]),
    )


class _Found(NamedTuple):
    kl_mean: float
    greedy_agreement: float


def _as_measured(artefact: Artefact) -> _Found | None:
    """What a wider bound would have to reach; None where none would do: no number, or the adapter is lost."""
    found, was = artefact.divergence, artefact.measured
    assert found is not None
    trained = Trained(was["adapter_loss"], was["base_loss"], was["base_kl"])
    if found.kl_mean is None or _is_lost(was["loss"], trained, found):
        return None
    return _Found(found.kl_mean, found.greedy_agreement)


def _is_lost(loss: float, trained: Trained, found: Divergence) -> bool:
    """Whether a model behaves like the base, as if never trained."""
    # Not by the loss alone: where an adapter changes little, rounding moves the loss as much as the adapter did.
    as_far = found.kl_mean is not None and found.kl_mean >= _AS_FAR_AS_THE_BASE * trained.base_kl
    return abs(loss - trained.base_loss) < abs(loss - trained.adapter_loss) and as_far


def _up(value: float) -> str:
    """With two digits, and no less than it is."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:.6g}"
