"""doctor's checks of the GPU, on one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from solotune import environment
from solotune.environment import prepare_process
from solotune.stages.doctor import gpu, spill

pytestmark = pytest.mark.gpu

GIB = 2**30


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    prepare_process(device="cuda")
    yield
    import torch

    torch.cuda.empty_cache()


def test_the_card_is_found_and_named() -> None:
    cards = environment.gpus()
    assert cards
    finding = gpu.gpu(cards)
    assert finding.status == "ok", finding
    assert "compute capability" in finding.found
    assert gpu.driver(cards[0]["driver"]).found == cards[0]["driver"]


def test_bfloat16_four_bits_and_triton_compute_what_they_should() -> None:
    for check in (gpu.bf16, gpu.nf4, gpu.triton):
        finding = check()
        assert finding.status == "ok", finding
        assert "relative error" in finding.found


def test_memory_is_told() -> None:
    finding = gpu._vram(gpu.holders())
    assert finding.status in ("ok", "warn")
    assert "GiB free" in finding.found


def test_the_card_is_filled_at_an_even_speed_and_given_back() -> None:
    import torch

    if gpu.holders():
        pytest.skip("another program uses the GPU")
    free, _ = torch.cuda.mem_get_info()
    rates = spill.measure()
    assert len(rates) * GIB / 2 > 0.85 * free
    assert min(rates) > 10 * GIB
    assert torch.cuda.mem_get_info()[0] > free - GIB
    if not environment.is_wsl():
        assert spill.usable(rates) == len(rates)
        assert spill.verdict(rates).status == "ok"


def test_all_checks_run_one_after_the_other() -> None:
    found = {finding.name: finding for finding in gpu.findings()}
    assert list(found) == ["gpu", "driver", "vram", "spill", "bf16", "nf4", "triton"]
    assert {name for name, finding in found.items() if finding.status == "FAIL"} <= {"driver"}, found
