from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from solotune.modeling.step import nf4
from solotune.modeling.step.lora_operation import lora

FEATURES, WIDTHS, RANKS, SCALINGS = 64, (48, 16), (4, 2), (2.0, 1.0)


def made(*, bits: int = 16, bias: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Two layers that share an input."""
    torch.manual_seed(0)
    dense = [torch.randn(width, FEATURES) for width in WIDTHS]
    weights, quants = dense, []
    if bits == 4:
        packs = [bnb.functional.quantize_4bit(w, quant_type="nf4", compress_statistics=True) for w in dense]
        dense = [bnb.functional.dequantize_4bit(*p) for p in packs]
        weights, quants = [p[0] for p in packs], [tensor for p in packs for tensor in nf4.quant_tensors(p[1])]
    return {
        "x": torch.randn(2, 5, FEATURES, dtype=dtype, requires_grad=True),
        "dense": dense,
        "weights": weights,
        "quants": quants,
        "biases": [torch.randn(width) for width in WIDTHS] if bias else [],
        "a": [torch.randn(rank, FEATURES, requires_grad=True) for rank in RANKS],
        "b": [torch.randn(width, rank, requires_grad=True) for width, rank in zip(WIDTHS, RANKS, strict=True)],
    }


def ours(m: dict[str, Any], x_lora: torch.Tensor | None = None) -> list[torch.Tensor]:
    dtype = m["x"].dtype
    a = torch.cat([a.detach() * s for a, s in zip(m["a"], SCALINGS, strict=True)]).to(dtype)
    bs = [b.detach().to(dtype) for b in m["b"]]
    return lora(m["x"], x_lora, m["weights"], m["quants"], m["biases"], a, bs, [*m["a"], *m["b"]], SCALINGS)


def written_out(m: dict[str, Any], x_lora: torch.Tensor | None = None) -> list[torch.Tensor]:
    x = m["x"]
    x_lora = x if x_lora is None else x_lora
    outs = []
    for i, scaling in enumerate(SCALINGS):
        bias = m["biases"][i] if m["biases"] else None
        base = torch.nn.functional.linear(x, m["dense"][i], bias)
        outs.append(base + (x_lora @ m["a"][i].t()) @ m["b"][i].t() * scaling)
    return outs


def gradients(outs: list[torch.Tensor], m: dict[str, Any], *more: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weighted = sum((out.float() * torch.arange(out.shape[-1])).sum() for out in outs)
    return torch.autograd.grad(weighted, [m["x"], *m["a"], *m["b"], *more])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [16, 4])
def test_outputs_and_gradients_are_those_of_the_formula(bits: int, bias: bool) -> None:
    m = made(bits=bits, bias=bias)
    torch.testing.assert_close(ours(m), written_out(m), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradients(ours(m), m), gradients(written_out(m), m), atol=1e-2, rtol=1e-5)


def test_a_dropped_out_input_has_a_gradient_of_its_own() -> None:
    m = made()
    x_lora = torch.randn(2, 5, FEATURES, requires_grad=True)
    torch.testing.assert_close(ours(m, x_lora), written_out(m, x_lora), atol=1e-4, rtol=1e-5)
    found, wanted = (gradients(way(m, x_lora), m, x_lora) for way in (ours, written_out))
    torch.testing.assert_close(found, wanted, atol=1e-2, rtol=1e-5)


def test_an_output_that_nobody_uses_has_no_share_in_the_gradient() -> None:
    m = made()
    chosen = [m["x"], m["a"][1], m["b"][1]]
    found, wanted = (torch.autograd.grad(way(m)[1].square().sum(), chosen) for way in (ours, written_out))
    torch.testing.assert_close(found, wanted, atol=1e-2, rtol=1e-5)


def test_an_input_without_gradient_costs_no_product() -> None:
    m = made()
    m["x"] = m["x"].detach()
    wanted, found = (torch.autograd.grad(way(m)[0].sum(), [m["a"][0], m["b"][0]]) for way in (written_out, ours))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-5)
    a, bs = torch.cat(m["a"]).detach(), [b.detach() for b in m["b"]]
    dys, t = [torch.randn(10, width) for width in WIDTHS], torch.randn(10, sum(RANKS))
    with torch.profiler.profile() as profile:
        dx, dx_lora, *_ = torch.ops.solotune.lora_backward_input(dys, t, m["weights"], [], a, bs, False, False)
    assert dx.numel() == dx_lora.numel() == 0
    assert sum(e.count for e in profile.key_averages() if e.key == "aten::mm") == 2 * len(WIDTHS)  # dy·B, dyᵀ·t


def test_gradients_of_float32_parameters_arent_rounded_to_the_input() -> None:
    m = made(dtype=torch.bfloat16)
    *_, da, db = gradients(ours(m), m)[1:4]
    for gradient in (da, db):
        assert gradient.dtype == torch.float32
        assert not torch.equal(gradient, gradient.bfloat16().float())


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("dropout", [False, True])
def test_torch_finds_no_fault_with_how_the_operation_is_declared(bits: int, dropout: bool) -> None:
    """Schema, shapes as the compiler is told them, gradient under the compiler."""
    m = made(bits=bits)
    a = torch.cat([a.detach() * s for a, s in zip(m["a"], SCALINGS, strict=True)])
    bs = [b.detach() for b in m["b"]]
    x_lora = torch.randn(2, 5, FEATURES, requires_grad=True) if dropout else None
    inputs = (m["x"], x_lora, m["weights"], m["quants"], m["biases"], a, bs, [*m["a"], *m["b"]], list(SCALINGS))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.solotune.lora.default, inputs, test_utils=checks)
