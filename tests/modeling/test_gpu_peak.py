from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from solotune.modeling import gpu_peak


@pytest.fixture(autouse=True)
def allocator(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """[bytes of tensors that are alive, the most of it since the last reset], instead of torch's own."""
    now_and_most = [100, 100]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: now_and_most[1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: now_and_most.__setitem__(1, now_and_most[0]))
    yield now_and_most
    gpu_peak.idle(0)
    gpu_peak.reset()


def test_what_recordings_hold_counts_beside_tensors_as_long_as_they_exist(allocator: list[int]) -> None:
    gpu_peak.reset()
    assert gpu_peak.peak_bytes() == 100
    allocator[1] = 500  # while a step was recorded
    gpu_peak.idle(450)
    assert gpu_peak.peak_bytes() == 550
    allocator[1] = 130  # the output head, beside
    assert gpu_peak.peak_bytes() == 580
    gpu_peak.idle(0)
    allocator[1] = 200  # an evaluation, after they were given back
    assert gpu_peak.peak_bytes() == 580
    gpu_peak.reset()
    assert gpu_peak.peak_bytes() == 100


def test_what_was_reserved_before_a_recording_isnt_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_peak.reset()
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 900)
    gpu_peak.idle(450)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 700)
    assert gpu_peak.reserved_bytes() == 900
    gpu_peak.reset()
    assert gpu_peak.reserved_bytes() == 700


def test_a_second_recording_in_the_same_memory_isnt_counted_twice(allocator: list[int]) -> None:
    gpu_peak.reset()
    gpu_peak.idle(450)
    gpu_peak.idle(0)
    allocator[1] = 540
    gpu_peak.idle(460)
    assert gpu_peak.peak_bytes() == 560
