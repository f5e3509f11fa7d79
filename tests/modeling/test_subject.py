"""What a closed subject gives back."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from solotune.modeling.subject import TorchSubject


def _anonymous_mib() -> float:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def test_a_closed_model_leaves_no_heap_behind() -> None:
    del (raises_what_malloc_maps := [torch.ones(30 * 2**18)])[:]
    assert not raises_what_malloc_maps
    before = _anonymous_mib()
    # Something small that stays above each: the heap can't shrink by itself.
    pairs = [(torch.ones(2**18), torch.ones(2**15)) for _ in range(200)]
    model: Any = SimpleNamespace(weights=[weight for weight, _ in pairs])
    stays = [small for _, small in pairs]
    del pairs
    assert _anonymous_mib() - before > 150
    subject = TorchSubject(model, None, None)  # type: ignore[arg-type]
    del model
    subject.close()
    assert _anonymous_mib() - before < 80
    assert len(stays) == 200
