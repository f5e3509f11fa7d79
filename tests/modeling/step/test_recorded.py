from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from solotune.modeling import gpu_peak
from solotune.modeling.step.recorded import RecordedDecoder, can_record, extent_class, rope_type


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


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A recording needs a GPU: here each attempt fails as `error` says, and the processor has no streams."""
    for name in ("get_rng_state", "current_stream", "set_stream", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(gpu_peak, "idle", lambda _: None)
    return []


def decoder(attempts: list[tuple[int, int]], error: RuntimeError) -> RecordedDecoder:
    class Failing(RecordedDecoder):
        def _record(self, extent: tuple[int, int], inputs: list[torch.Tensor]) -> None:
            attempts.append(extent)
            raise error

    def plain(ids: torch.Tensor, _positions: torch.Tensor, _ends: torch.Tensor, _extent: tuple[int, int]) -> Any:
        return ids * 2

    return Failing(plain, torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_without_memory_for_a_recording_packs_go_through_unrecorded_and_none_is_tried_again(
    attempts: list[tuple[int, int]], error: RuntimeError, capsys: pytest.CaptureFixture[str]
) -> None:
    run, ids = decoder(attempts, error), torch.arange(4)
    for extent in ((1, 128), (1, 128), (4, 512)):
        assert torch.equal(run(ids, ids, ids, extent), ids * 2)
    assert attempts == [(1, 128)]
    assert capsys.readouterr().err.count("no GPU memory is left to record the step's launches") == 1
    assert not run.give_up(), "there was nothing to give back"


def test_another_error_of_a_recording_isnt_taken_for_a_lack_of_memory(attempts: list[tuple[int, int]]) -> None:
    run, ids = decoder(attempts, RuntimeError("operation not permitted when stream is capturing")), torch.arange(4)
    with pytest.raises(RuntimeError, match="not permitted"):
        run(ids, ids, ids, (1, 128))
