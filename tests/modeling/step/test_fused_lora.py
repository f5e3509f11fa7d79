from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.modeling.step.small import VOCABULARY, adapted, assert_close, base, passed

from solotune.modeling.step import FAMILIES, fused_lora


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows, more than `fused_lora` leaves to bitsandbytes without gradient."""
    return torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))


def fused(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, fused_lora._Fused)]


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_and_gradients_are_pefts(family: str, bits: int, ids: torch.Tensor) -> None:
    model = adapted(base(family), bits=bits)
    wanted = passed(model, input_ids=ids)
    assert fused_lora.fuse(model) == 21
    assert len(fused(model)) == 21
    assert sum(m.group is not None for m in fused(model)) == 15  # q, k, v, gate, up of three layers
    assert_close(passed(model, input_ids=ids), wanted)
    assert all(m.group is None or m.group.x is None for m in fused(model))  # no activation is held on to
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, wanted[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", [16, 4])
def test_dropout_draws_what_peft_draws(bits: int, ids: torch.Tensor) -> None:
    model = adapted(base(), bits=bits, dropout=0.3)
    torch.manual_seed(5)
    wanted = passed(model, input_ids=ids)
    fused_lora.fuse(model)
    torch.manual_seed(5)
    assert_close(passed(model, input_ids=ids), wanted)
    torch.manual_seed(6)
    assert not torch.allclose(passed(model, input_ids=ids)[0], wanted[0], atol=1e-3)


def test_dropout_is_off_in_evaluation(ids: torch.Tensor) -> None:
    model = adapted(base(), dropout=0.3).eval()
    wanted = passed(model, input_ids=ids)
    fused_lora.fuse(model)
    assert_close(passed(model, input_ids=ids), wanted)


@pytest.mark.parametrize("bits", [16, 4])
def test_a_disabled_adapter_leaves_the_base_model_to_the_bit(bits: int, ids: torch.Tensor) -> None:
    model = adapted(base(), bits=bits)

    @torch.no_grad()
    def without_adapter() -> Any:
        with model.disable_adapter():
            return model(input_ids=ids, use_cache=False).logits

    wanted = without_adapter()
    with_adapter = passed(model, input_ids=ids)
    fused_lora.fuse(model)
    assert torch.equal(without_adapter(), wanted)
    assert not torch.allclose(with_adapter[0], wanted, atol=1e-3)
    assert_close(passed(model, input_ids=ids), with_adapter)


@pytest.mark.parametrize("bits", [16, 4])
def test_a_few_rows_without_gradient_go_upstreams_way_to_the_bit(bits: int, ids: torch.Tensor) -> None:
    model = adapted(base(), bits=bits).eval()
    few = ids[:1, : fused_lora._FEW_ROWS - 1]
    with torch.no_grad():
        wanted = model(input_ids=few, use_cache=False).logits
        fused_lora.fuse(model)
        assert torch.equal(model(input_ids=few, use_cache=False).logits, wanted)


def test_some_targets_with_ranks_and_scales_of_their_own(ids: torch.Tensor) -> None:
    given = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}
    model = adapted(base(), target_modules=["q_proj", "v_proj", "up_proj"], **given)
    wanted = passed(model, input_ids=ids)
    assert fused_lora.fuse(model) == 9
    assert_close(passed(model, input_ids=ids), wanted)


def test_dora_stays_pefts(ids: torch.Tensor) -> None:
    model = adapted(base(), use_dora=True)
    wanted = passed(model, input_ids=ids)
    fused_lora.fuse(model)
    found = passed(model, input_ids=ids)
    assert torch.equal(found[0], wanted[0])
    assert_close(found, wanted, 0.0)


def test_layers_of_one_group_that_are_called_out_of_order_or_alone_compute_their_own(ids: torch.Tensor) -> None:
    model = adapted(base())
    attention = model.get_base_model().model.layers[0].self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    x, other = torch.randn(2, 2, 40, 64)
    wanted = {(i, j): p(y).detach() for i, p in enumerate(projections) for j, y in enumerate((x, other))}
    fused_lora.fuse(model)
    for i, j in [(0, 0), (2, 0), (1, 0), (0, 0), (1, 1), (0, 1), (0, 1), (1, 0), (2, 1), (0, 0), (1, 0), (2, 0)]:
        torch.testing.assert_close(projections[i]((x, other)[j]), wanted[i, j], atol=1e-5, rtol=1e-5)


def test_a_step_of_the_optimiser_between_two_passes_is_seen(ids: torch.Tensor) -> None:
    model = adapted(base())
    fused_lora.fuse(model)
    first = passed(model, input_ids=ids)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data *= 2
    assert not torch.allclose(passed(model, input_ids=ids)[0], first[0], atol=1e-3)


def test_merging_and_unmerging_work_as_before(ids: torch.Tensor) -> None:
    model = adapted(base())
    wanted = passed(model, input_ids=ids)
    fused_lora.fuse(model)
    model.merge_adapter()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, wanted[0], atol=1e-4, rtol=1e-4)
    model.unmerge_adapter()
    assert_close(passed(model, input_ids=ids), wanted, 1e-4)


def test_what_is_saved_doesnt_change(tmp_path: Path) -> None:
    model = adapted(base())
    model.save_pretrained(tmp_path / "before")
    parameters = [name for name, _ in model.named_parameters()]
    fused_lora.fuse(model)
    model.save_pretrained(tmp_path / "after")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    assert [name for name, _ in model.named_parameters()] == parameters
    assert not any("packed" in name or "quant." in name for name in model.state_dict())


def test_a_layer_in_fp4_isnt_fused() -> None:
    import bitsandbytes as bnb

    model = base()
    projection = model.model.layers[0].self_attn.q_proj
    four = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="fp4")
    four.weight = bnb.nn.Params4bit(projection.weight.data, requires_grad=False, quant_type="fp4", module=four)
    model.model.layers[0].self_attn.q_proj = four.to("cpu")
    assert fused_lora.fuse(adapted(model)) == 20
