"""The fast training step with its kernels, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from tests.modeling.step.small import adapted, base, documents, gradients, labels_in, packed, quantise

from solotune.environment import prepare_process
from solotune.modeling.step import FixedStep, fused_lora, head, nf4, varlen_attention

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    prepare_process(device="cuda")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(64, 64), (1000, 4096), (4096, 192), (5, 96)])
def test_the_nf4_kernel_gives_bitsandbytes_bits(shape: tuple[int, int], double: bool, dtype: torch.dtype) -> None:
    weight = torch.randn(shape, device="cuda", dtype=dtype)
    packed_weight, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double)
    wanted = bnb.functional.dequantize_4bit(packed_weight, state)
    quant = nf4.quant_tensors(state)
    assert torch.equal(nf4.dequantise(packed_weight, quant, shape, dtype), wanted)
    wide = torch.full((shape[0], shape[1] + 64), 7.0, device="cuda", dtype=dtype)
    nf4.dequantise(packed_weight, quant, shape, dtype, out=wide[:, : shape[1]])
    assert torch.equal(wide[:, : shape[1]], wanted)
    assert (wide[:, shape[1] :] == 7.0).all()


@pytest.mark.parametrize("window", [0, 1, 100])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_attention_is_the_processors_and_the_same_twice(dim: int, window: int) -> None:
    lengths = [300, 1, 77, 646]
    ends = torch.tensor([0, *lengths, 0]).cumsum(0).to(torch.int32)
    extent = torch.tensor([len(lengths), max(lengths)])
    q, k, v, dout = (torch.randn(1024, n, dim, dtype=torch.bfloat16) for n in (8, 2, 2, 8))

    def run(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [x.to(device, dtype).requires_grad_() for x in (q, k, v)]
        out, _ = torch.ops.solotune.varlen(*inputs, ends.to(device), extent, dim**-0.5, window)
        return [out.detach(), *torch.autograd.grad(out, inputs, dout.to(device, dtype))]

    first, second = run("cuda", torch.bfloat16), run("cuda", torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for found, wanted in zip(first, run("cpu", torch.float32), strict=True):
        # A window of one token leaves nothing to weigh, and no gradient for queries and keys.
        assert (found.float().cpu() - wanted).norm() < 0.01 * wanted.norm() + 1e-3


def test_the_heads_kernel_gives_cross_entropys_loss_and_gradient() -> None:
    hidden = torch.randn(1500, 64, device="cuda").requires_grad_()
    weight = torch.randn(5003, 64, device="cuda") * 0.2
    labels = torch.randint(0, 5003, (1500,), device="cuda")
    labels[::3] = -100
    exact = hidden.detach().double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact @ weight.double().t(), labels, reduction="sum")
    (wanted_gradient,) = torch.autograd.grad(wanted, exact)
    found = head.summed_loss(hidden, weight, labels)
    (gradient,) = torch.autograd.grad(found, hidden)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), wanted_gradient, rtol=0, atol=1e-4)


def on_gpu(bits: int, dropout: float = 0.0) -> Any:
    """A bfloat16 model with float32 adapter, its products wide enough for every way that they are made."""
    model = base("llama", hidden_size=256, intermediate_size=1024, num_attention_heads=4).to("cuda", torch.bfloat16)
    if bits == 4:
        quantise(model, torch.bfloat16, "cuda")
    model = adapted(model, dropout=dropout)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def taken(step: FixedStep, model: Any) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    pack = {k: v.to("cuda") if isinstance(v, torch.Tensor) else v for k, v in packed(documents(), 128).items()}
    with torch.autocast("cuda", torch.bfloat16):
        loss = step.loss(pack, labels_in(documents()))
    loss.backward()
    return loss.item(), torch.cat([g.flatten() for g in gradients(model).values()])


@pytest.mark.parametrize("recomputed", [0, 2])
@pytest.mark.parametrize("bits", [16, 4])
def test_a_compiled_step_gives_pefts_gradients_and_the_same_bits_twice(bits: int, recomputed: int) -> None:
    model = on_gpu(bits)
    pack = packed(documents(), 128)
    targets = pack["targets"].to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        ids, positions = (pack[name].to("cuda") for name in ("input_ids", "position_ids"))
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum") / labels_in(documents())
    loss.backward()
    plain = torch.cat([g.flatten() for g in gradients(model).values()])
    step = FixedStep(model, recomputed=recomputed)
    assert sum(isinstance(m, fused_lora._Fused) for m in model.modules()) == 21
    first, second = taken(step, model), taken(step, model)
    assert first[0] == second[0] == pytest.approx(loss.item(), rel=2e-3)
    assert torch.equal(first[1], second[1])
    assert torch.nn.functional.cosine_similarity(first[1], plain, dim=0) > 0.999
    assert first[1].norm().item() == pytest.approx(plain.norm().item(), rel=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_replayed_step_has_the_bits_of_one_that_isnt(dropout: float) -> None:
    """Over two steps of two packs each, of several classes, with an evaluation in between."""
    found = []
    for replayed in (False, True):
        torch.manual_seed(5)
        model = on_gpu(4, dropout)
        assert any(isinstance(module, torch.nn.Dropout) for module in model.modules()) == (dropout > 0)
        torch.manual_seed(6)
        before = torch.cuda.get_rng_state()
        step = FixedStep(model, replayed=replayed)
        bits = []
        for _ in range(2):
            model.zero_grad()
            for some in (documents(), documents()[:2]):
                pack = {k: v.to("cuda") if isinstance(v, torch.Tensor) else v for k, v in packed(some, 128).items()}
                with torch.autocast("cuda", torch.bfloat16):
                    loss = step.loss(pack, labels_in(documents()))
                loss.backward()
                bits.append(loss.detach().clone())
            bits += [g.clone() for g in gradients(model).values()]
            step.off()
        found.append([*bits, torch.cuda.get_rng_state()])
        assert torch.equal(before, found[-1][-1]) == (dropout == 0)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_kernel_knows_the_heads_that_are_said_to_fit() -> None:
    for dim in (8, 80, 192, 256):
        assert varlen_attention.fits(dim)
        q, k, v = (torch.randn(32, n, dim, device="cuda", dtype=torch.bfloat16).requires_grad_() for n in (4, 2, 2))
        ends = torch.tensor([0, 10, 32], dtype=torch.int32, device="cuda")
        out, _ = torch.ops.solotune.varlen(q, k, v, ends, torch.tensor([2, 22]), 0.1, 0)
        out.sum().backward()
        assert q.grad is not None
        assert q.grad.isfinite().all()
