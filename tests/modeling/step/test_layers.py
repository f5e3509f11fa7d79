from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from tests.modeling.step.small import (
    LAYERS,
    WINDOWS,
    adapted,
    arguments,
    assert_close,
    base,
    documents,
    gradients,
    packed,
    passed,
    with_our_attention,
)

from solotune.modeling.step import FAMILIES, fused_lora, layers

TRACED = "aot_eager_decomp_partition"
"""All of torch.compile but the code that it writes: graphs, their partition, no C++ compiler."""
TWO_KINDS_OF_LAYERS = ("smollm3",)
"""With and without rotary embedding."""


def ready(model: Any) -> Any:
    """As FixedStep has it, not compiled."""
    with_our_attention(model)
    fused_lora.fuse(model)
    layers.inputs_need_gradient(model)
    return model


def compiled_times() -> int:
    assert not torch._dynamo.utils.counters["graph_break"]
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_of_every_family_are_found(family: str) -> None:
    model = adapted(base(family))
    assert layers.decoder_layers(model) == list(model.get_base_model().model.layers)
    assert len(layers.decoder_layers(model)) == LAYERS


@pytest.mark.parametrize("bits", [16, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_compiled_whole_and_once_for_packs_of_any_rows(family: str, bits: int) -> None:
    model = ready(adapted(base(family), bits=bits))
    first, second = (packed(documents(count, seed=count), pad_id=0) for count in (5, 3))
    assert first["pack_extent"] != second["pack_extent"]
    wanted = [passed(model, **arguments(pack)) for pack in (first, second)]
    compiled = layers.StepLayers(model, backend=TRACED)
    compiled.on()
    assert_close(passed(model, **arguments(first)), wanted[0])
    kinds = 2 if family in TWO_KINDS_OF_LAYERS else 1
    assert compiled_times() == kinds
    assert_close(passed(model, **arguments(second)), wanted[1])
    assert compiled_times() == kinds
    compiled.off()
    found = passed(model, **arguments(first))
    assert torch.equal(found[0], wanted[0][0])
    assert compiled_times() == kinds


@pytest.mark.slow
def test_layers_with_and_without_a_window_are_compiled_apart() -> None:
    model = ready(adapted(base("qwen2", **WINDOWS["qwen2"])))
    pack = packed(documents())
    wanted = passed(model, **arguments(pack))
    layers.StepLayers(model, backend=TRACED).on()
    assert_close(passed(model, **arguments(pack)), wanted)
    assert compiled_times() == 2


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_recomputed_layers_are_compiled_whole_and_once_too(dropout: float) -> None:
    model = ready(adapted(base(), dropout=dropout))
    pack = packed(documents())
    found = []
    for recomputed in (0, 2):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        layers.StepLayers(model, recomputed=recomputed, random=dropout > 0, backend=TRACED).on()
        torch.manual_seed(5)
        found.append(passed(model, **arguments(pack)))
        assert compiled_times() == 1
    assert_close(found[1], found[0])


def test_compiled_dropout_depends_on_the_generator_alone() -> None:
    model = ready(adapted(base(), dropout=0.3))
    layers.StepLayers(model, backend=TRACED).on()
    pack = packed(documents())
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(passed(model, **arguments(pack)))
    assert_close(found[1], found[0], 0.0)
    assert not torch.allclose(found[2][0], found[0][0], atol=1e-3)


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputation_changes_no_bit_of_a_gradient(bits: int, dropout: float) -> None:
    model = ready(adapted(base(), bits=bits, dropout=dropout))
    pack = packed(documents())
    found = []
    for recomputed in range(LAYERS + 1):
        layers.StepLayers(model, recomputed=recomputed, compiled=False, random=dropout > 0).on()
        torch.manual_seed(5)
        found.append(passed(model, **arguments(pack)))
    for other in found[1:]:
        assert_close(other, found[0], 0.0)


def test_as_many_layers_run_twice_as_are_recomputed() -> None:
    model = ready(adapted(base()))
    runs = [0] * LAYERS
    for i, layer in enumerate(layers.decoder_layers(model)):

        def count(*_: Any, i: int = i) -> None:
            runs[i] += 1

        layer.mlp.register_forward_pre_hook(count)  # recomputing ends before the MLP is through
    layers.StepLayers(model, recomputed=2, compiled=False).on()
    passed(model, **arguments(packed(documents())))
    assert runs == [2, 2, 1]


def test_without_a_hook_the_first_layer_would_be_another_kind() -> None:
    """What `inputs_need_gradient` is for; removed, nothing of it is left."""
    model = adapted(base())
    ids = torch.tensor([[5, 6, 7]])
    embeddings = model.get_input_embeddings()
    assert not embeddings(ids).requires_grad
    handle = layers.inputs_need_gradient(model)
    assert embeddings(ids).requires_grad
    with torch.no_grad():
        assert not embeddings(ids).requires_grad
    handle.remove()
    assert not embeddings(ids).requires_grad


@pytest.mark.parametrize("strict", [True, False])
def test_the_compiler_chooses_no_kernel_by_timing_in_strict_determinism(strict: bool) -> None:
    import torch._inductor.config as inductor

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(strict)
    try:
        inductor.deterministic = False  # torch 2.13 sets it with the line above
        layers.StepLayers(adapted(base()))
        assert inductor.deterministic is strict
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="needs a C++ compiler")
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_code_computes_what_isnt_compiled(family: str) -> None:
    model = ready(adapted(base(family)))
    pack = packed(documents())
    wanted = passed(model, **arguments(pack))
    layers.StepLayers(model).on()
    assert_close(passed(model, **arguments(pack)), wanted)
    assert_close((wanted[0], gradients(model)), wanted)
