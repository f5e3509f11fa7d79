"""How far an exported model may be from the adapter, and whether it is."""

from __future__ import annotations

from solotune.artifacts.measured import Divergence
from solotune.config.schema import ExportConfig

Tolerance = dict[str, float]

_GGUF: dict[str, Tolerance] = {
    "q8_0": {"max_loss_difference": 0.02, "max_kl": 0.02, "min_greedy_agreement": 0.97},
}


def of_merged(export: ExportConfig) -> Tolerance:
    """Of a merged model, and of a GGUF with 16 bits or more."""
    return {
        "max_loss_difference": export.max_loss_difference,
        "max_kl": export.max_kl,
        "min_greedy_agreement": export.min_greedy_agreement,
    }


def of_gguf(export: ExportConfig, kind: str) -> Tolerance:
    """Of a GGUF: what its type may lose, times export.gguf_tolerance; with 16 bits or more as of a merged model."""
    if kind not in _GGUF:
        return of_merged(export)
    factor, own = export.gguf_tolerance, _GGUF[kind]
    return {
        "max_loss_difference": factor * own["max_loss_difference"],
        "max_kl": factor * own["max_kl"],
        "min_greedy_agreement": 1 - factor * (1 - own["min_greedy_agreement"]),
    }


def failures(loss: float, base: float, adapter: float, found: Divergence, tolerance: Tolerance) -> list[str]:
    """What of the figures isn't within the tolerance, a sentence each.

    Args:
        loss: the exported model's, in nats a token.
        base: the base model's on the same rows.
        adapter: the adapter's on the same rows.
        found: how the exported model's probabilities differ from the adapter's.
        tolerance: as `of_merged` gives it.
    """
    failed = []
    if abs(loss - base) < abs(loss - adapter):
        failed.append(
            f"its loss is {loss:.4f}, and the base's {base:.4f} is nearer to it than the adapter's {adapter:.4f}: "
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
