from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from solotune.modeling.step.recorded import can_record, extent_class, rope_type


@pytest.mark.parametrize(
    ("config", "kind", "records"),
    [
        ({}, "default", True),
        ({"rope_scaling": None}, "default", True),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "llama3", True),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic", False),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}, "sliding": {"rope_type": "default"}}},
         "dynamic", False),
    ],
)  # fmt: skip
def test_a_rotary_embedding_that_looks_at_values_isnt_recorded(
    config: dict[str, Any], kind: str, records: bool
) -> None:
    assert rope_type(SimpleNamespace(**config)) == kind
    assert can_record(dropout=0.1, recomputed=0, rope=kind) is records
    assert not can_record(dropout=0.1, recomputed=1, rope=kind)


@pytest.mark.parametrize(
    ("extent", "expected"),
    [
        ((1, 2048), (1, 2048)),
        ((4, 900), (4, 2048)),
        ((5, 512), (16, 512)),
        ((17, 100), (64, 128)),
        ((65, 2000), (70, 2048)),
        ((2, 3000), (2, 4096)),
    ],
)
def test_extents_fall_into_few_classes_and_never_shrink(extent: tuple[int, int], expected: tuple[int, int]) -> None:
    found = extent_class(extent, most_rows=70, tokens=4096)
    assert found == expected
    assert found[0] >= extent[0]
    assert found[1] >= extent[1]
