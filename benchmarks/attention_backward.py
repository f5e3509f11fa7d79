"""The deterministic backward pass of attention by the number of empty documents beside the real ones, on a GPU.

    python -P benchmarks/attention_backward.py [--json found.json]

Times of `_flash_attention_backward` on documents of one length, 20 calls after 5, with 0 to 4 more that are empty; and
what `varlen_attention.empty_documents` chooses.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))
CASES = [  # documents, heads of queries, of keys, features of a head, tokens of a document
    (1, 32, 8, 128, 2048),
    (2, 32, 8, 128, 2048),
    (3, 32, 8, 128, 2048),
    (4, 32, 8, 128, 1024),
    (1, 32, 8, 128, 4096),
    (2, 16, 8, 128, 2048),
    (4, 14, 2, 64, 1024),
    (2, 14, 2, 64, 4096),
    (4, 32, 8, 64, 512),
    (16, 32, 8, 128, 256),
]


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import torch

    from solotune import environment
    from solotune.modeling.step.varlen_attention import empty_documents

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # as modeling/determinism.py has it
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    found: list[dict[str, Any]] = []
    for documents, heads, kv_heads, dim, tokens in CASES:
        times = {more: milliseconds(documents, more, heads, kv_heads, dim, tokens) for more in range(5)}
        torch.use_deterministic_algorithms(False)
        loose = milliseconds(documents, 0, heads, kv_heads, dim, tokens)
        torch.use_deterministic_algorithms(True)
        chosen = empty_documents(documents, tokens, documents * tokens, heads, processors)
        record = {"documents": documents, "heads": heads, "kv_heads": kv_heads, "head_dim": dim, "tokens": tokens}
        found.append({**record, "ms_by_empty_documents": times, "chosen": chosen, "ms_not_deterministic": loose})
        told = "  ".join(f"{more}: {spent:.3f}" for more, spent in times.items())
        print(
            f"{documents} x {tokens}, {heads} heads of {dim}: {told} ms; {chosen} chosen; seeded {loose:.3f}",
            flush=True,
        )
    if given.json:
        report = {
            "script": "benchmarks/attention_backward.py",
            "date": time.strftime("%Y-%m-%d"),
            "device": environment.gpus(),
            "libraries": environment.library_versions(),
            "processors": processors,
            "cases": found,
        }
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def milliseconds(documents: int, more: int, heads: int, kv_heads: int, dim: int, tokens: int) -> float:
    """Of one call."""
    import torch

    def some(n: int) -> torch.Tensor:
        return torch.randn(documents * tokens, n, dim, device="cuda", dtype=torch.bfloat16)

    q, k, v, dout = some(heads), some(kv_heads), some(kv_heads), some(heads)
    ends = [*range(0, documents * tokens + 1, tokens), *[documents * tokens] * more]
    bounds = torch.tensor(ends, dtype=torch.int32, device="cuda")
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds, bounds, tokens, tokens, 0.0, True, False, scale=dim**-0.5
    )
    unused = torch.empty(2, dtype=torch.uint64, device="cuda")
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for call in range(25):
        if call == 5:
            begin.record()
        torch.ops.aten._flash_attention_backward(
            dout, q, k, v, out, lse, bounds, bounds, tokens, tokens, 0.0, True, unused, unused, scale=dim**-0.5
        )
    end.record()
    torch.cuda.synchronize()
    return round(begin.elapsed_time(end) / 20, 4)


if __name__ == "__main__":
    main()
