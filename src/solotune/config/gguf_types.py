"""Types of GGUF, where a mistyped one can be told before anything is loaded."""

from __future__ import annotations

CONVERTED = ("f32", "f16", "bf16", "q8_0")
"""Types that llama.cpp's converter writes."""
QUANTISED = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
"""Types that its quantiser makes of a converted file."""
TYPES = (*CONVERTED, *QUANTISED)
