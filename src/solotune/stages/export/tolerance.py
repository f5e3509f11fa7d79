"""How far an exported model may be from the adapter, and whether it is."""

from __future__ import annotations

from dataclasses import dataclass

from solotune.artifacts.measured import Divergence
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
    # Not by the loss alone: where an adapter changes little, rounding moves the loss as much as the adapter did.
    as_far = found.kl_mean is not None and found.kl_mean >= _AS_FAR_AS_THE_BASE * trained.base_kl
    if abs(loss - base) < abs(loss - adapter) and as_far:
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
