from __future__ import annotations

import bitsandbytes as bnb
import pytest
import torch

from solotune.modeling.step import nf4


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(64, 64), (320, 128), (3, 40), (1, 192)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_as_from_bitsandbytes_to_the_bit(
    shape: tuple[int, int], dtype: torch.dtype, double: bool
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
    assert nf4.supported(state)
    quant = nf4.quant_tensors(state)
    assert len(quant) == nf4.QUANT_TENSORS
    wanted = bnb.functional.dequantize_4bit(packed, state).to(dtype)
    assert torch.equal(nf4.dequantise(packed, quant, shape, dtype), wanted)


def test_rows_that_end_within_a_block_come_back() -> None:
    """bitsandbytes 0.50.2 takes another scale than it stored here, on a processor."""
    weight = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4")
    found = nf4.dequantise(packed, nf4.quant_tensors(state), (5, 96), torch.float32)
    widest = torch.diff(state.code).max() / 2  # half the gap between two values of the code book
    blocks = torch.nn.functional.pad((found - weight).flatten(), (0, 32)).reshape(-1, 64)
    assert (blocks.abs().amax(1) <= state.absmax * widest + 1e-6).all()


def test_a_part_of_a_wider_tensor_is_filled_and_nothing_else() -> None:
    packed, state = bnb.functional.quantize_4bit(torch.randn(8, 64), quant_type="nf4", compress_statistics=True)
    wide = torch.full((8, 128), 7.0)
    nf4.dequantise(packed, nf4.quant_tensors(state), (8, 64), torch.float32, out=wide[:, :64])
    assert torch.equal(wide[:, :64], bnb.functional.dequantize_4bit(packed, state))
    assert (wide[:, 64:] == 7.0).all()


def test_fp4_isnt_supported() -> None:
    _, state = bnb.functional.quantize_4bit(torch.randn(8, 64), quant_type="fp4")
    assert not nf4.supported(state)
