from __future__ import annotations

import pytest

from solotune.errors import ProofError
from solotune.stages.export import refuse_unfaithful


def test_a_faithful_merge_passes() -> None:
    refuse_unfaithful(base=3.5, adapter=0.05, merged=0.051, tolerance=0.01)


@pytest.mark.parametrize(
    ("base", "adapter", "merged", "tolerance", "said"),
    [
        (3.5, 0.05, 3.5, 4.0, "behaves like the base model"),
        (3.500, 3.495, 3.500, 0.01, "behaves like the base model"),
        (3.5, 0.05, 3.4, 0.01, "behaves like the base model"),
        (3.5, 0.05, 0.08, 0.01, r"0\.0800, the adapter's 0\.0500 \(tolerance 0\.01\)"),
    ],
)
def test_a_merge_that_lost_the_adapter_or_differs_is_refused(
    base: float, adapter: float, merged: float, tolerance: float, said: str
) -> None:
    with pytest.raises(ProofError, match=said):
        refuse_unfaithful(base, adapter, merged, tolerance)
