from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.modeling.step.small import (
    CONFIGS,
    WINDOW,
    WINDOWS,
    arguments,
    base,
    documents,
    packed,
    with_our_attention,
)

from solotune.modeling.step import varlen_attention

ENDS = [0, 9, 10, 31, 48]
LENGTHS = [9, 1, 21, 17]
PADDED_ENDS = torch.tensor([*ENDS, 48, 48], dtype=torch.int32)
EXTENT = torch.tensor([len(LENGTHS), max(LENGTHS)])


def heads(n_heads: int, n_kv: int, tokens: int = 48, dim: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, n, tokens, dim, generator=generator).requires_grad_() for n in (n_heads, n_kv, n_kv)]


def block_diagonal(window: int | None) -> torch.Tensor:
    mask = torch.block_diag(*(torch.ones(n, n).tril() for n in LENGTHS)).bool()
    return mask if window is None else mask & torch.ones(48, 48).triu(1 - window).bool()


@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize(("n_heads", "n_kv"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_on_a_processor_it_is_sdpa_with_a_block_diagonal_mask(
    n_heads: int, n_kv: int, window: int | None, scaling: float | None
) -> None:
    inputs = heads(n_heads, n_kv)
    ours, weights = varlen_attention.attention(
        torch.nn.Identity(),
        *inputs,
        None,
        scaling=scaling,
        pack_ends=PADDED_ENDS,
        pack_extent=EXTENT,
        sliding_window=window,
    )
    sdpa = torch.nn.functional.scaled_dot_product_attention(
        *inputs, attn_mask=block_diagonal(window), scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(ours, sdpa, atol=1e-6, rtol=1e-5)
    dout = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (torch.autograd.grad(out, inputs, dout) for out in (ours, sdpa))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_the_operation_is_declared_as_it_behaves() -> None:
    q, k, v = (x.detach()[0].transpose(0, 1).contiguous().requires_grad_() for x in heads(4, 2))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(varlen_attention.varlen, (q, k, v, PADDED_ENDS, EXTENT, 0.25, 4), test_utils=checks)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_sees_what_upstreams_sdpa_mask_lets_it_see(family: str, windowed: bool) -> None:
    """In packs with rows longer than the window; with a window in all layers (Mistral), or in some."""
    if windowed and family not in WINDOWS:
        pytest.skip(f"{family} has no sliding window")
    model = base(family, **(WINDOWS[family] if windowed else {})).eval()
    pack = packed(documents())
    assert pack["pack_extent"][1] > 2 * WINDOW
    with torch.no_grad():
        wanted = model(input_ids=pack["input_ids"], position_ids=pack["position_ids"], use_cache=False).logits
        found = with_our_attention(model)(**arguments(pack)).logits
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("family", WINDOWS)
def test_the_window_arrives_in_the_layers_that_have_one(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = varlen_attention.attention

    def noting(*args: object, sliding_window: int | None = None, **kwargs: object) -> object:
        seen.append(sliding_window)
        return original(*args, sliding_window=sliding_window, **kwargs)

    monkeypatch.setattr(varlen_attention, "attention", noting)
    model = with_our_attention(base(family, **WINDOWS[family]))
    monkeypatch.undo()
    with torch.no_grad():
        model(**arguments(packed(documents())))
    varlen_attention.register()
    expected = {"mistral": [WINDOW] * 3, "qwen2": [None, WINDOW, WINDOW], "qwen3": [None, None, WINDOW]}
    assert seen == expected.get(family, [None, WINDOW, None])


def test_a_row_sees_nothing_of_its_neighbours() -> None:
    inputs = [x.detach() for x in heads(4, 2)]
    given = {"pack_ends": PADDED_ENDS, "pack_extent": EXTENT}
    before, _ = varlen_attention.attention(torch.nn.Identity(), *inputs, None, **given)
    for x in inputs:
        x[:, :, 10:31] = torch.randn(x[:, :, 10:31].shape)
    after, _ = varlen_attention.attention(torch.nn.Identity(), *inputs, None, **given)
    changed = (before != after).flatten(2).any(-1)[0]
    assert changed[10:31].all()
    assert not changed[:10].any()
    assert not changed[31:].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs packs"),
        ({"pack_ends": PADDED_ENDS, "pack_extent": EXTENT, "dropout": 0.1}, "dropout"),
        ({"pack_ends": PADDED_ENDS, "pack_extent": EXTENT, "softcap": 30.0}, "softcap"),
        ({"pack_ends": PADDED_ENDS, "pack_extent": EXTENT, "s_aux": torch.ones(4)}, "sinks"),
    ],
)
def test_what_it_cant_do_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        varlen_attention.attention(torch.nn.Identity(), *heads(4, 2), None, **given)


def test_heads_that_the_kernel_knows() -> None:
    known = {dim for dim in range(1, 513) if varlen_attention.fits(dim)}
    assert {16, 64, 80, 96, 128, 192, 256} <= known
    assert not known & {4, 100, 200, 224, 257, 512}


ROOT = Path(__file__).parents[3]
TIMED = json.loads((ROOT / "benchmarks/results/2026-11-27-h100-attention-backward.json").read_text())


@pytest.mark.parametrize("case", TIMED["cases"], ids=lambda case: f"{case['documents']}x{case['tokens']}")
def test_as_many_empty_documents_are_added_as_were_measured_to_be_fastest(case: dict[str, Any]) -> None:
    documents, tokens, times = case["documents"], case["tokens"], case["ms_by_empty_documents"]
    chosen = varlen_attention.empty_documents(documents, tokens, documents * tokens, case["heads"], TIMED["processors"])
    assert times[str(chosen)] <= 1.01 * min(times.values())


@pytest.mark.parametrize(
    ("documents", "longest", "tokens", "processors"),
    [
        # An RTX 4090's 128 processors: a document or two of 32 heads fill them as they are.
        (1, 2048, 2048, 128),
        (2, 2048, 4096, 128),
        # One long document beside three short ones: another sum less would make its keys wait for each other.
        (4, 2048, 4096, 132),
    ],
)
def test_no_empty_document_is_added_where_none_helps(
    documents: int, longest: int, tokens: int, processors: int
) -> None:
    assert varlen_attention.empty_documents(documents, longest, tokens, 32, processors) == 0
