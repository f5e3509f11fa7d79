from __future__ import annotations

import pytest

from solotune.modeling.step.recorded import extent_class


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
