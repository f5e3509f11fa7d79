"""What the compiler was told by one test isn't told to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def compiler_as_it_was() -> Iterator[None]:
    import torch._functorch.config as partitioner
    import torch._inductor.config as inductor

    with partitioner.patch({}), inductor.patch({"deterministic": inductor.deterministic}):
        before = {name: getattr(partitioner, name) for name in _CHANGED}
        yield
        for name, value in before.items():
            setattr(partitioner, name, value)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


_CHANGED = (
    "ban_recompute_materialized_backward",
    "ban_recompute_used_far_apart",
    "ban_recompute_long_fusible_chains",
)
