"""What vLLM takes, for commands that are printed and never run here."""

from __future__ import annotations

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def max_lora_rank(rank: int) -> int | None:
    """The least `--max-lora-rank` for an adapter of this rank (vllm/config/lora.py); None beyond all that it takes."""
    return next((taken for taken in _RANKS if taken >= rank), None)
