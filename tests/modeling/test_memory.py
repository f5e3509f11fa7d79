from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import LLAMA_8B, make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_manifest import Layout
from solotune.config.schema import RunConfig
from solotune.modeling.layout import candidates, choose, smaller
from solotune.modeling.memory import _IDLE_IN_A_RECORDING, _OF_A_RECORDING, Shapes, estimate, shapes

GIB = 2**30
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    """Shapes of Llama 3.1 8B, from its config alone."""
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return shapes(ModelDir(folder))


def qlora(**training: object) -> RunConfig:
    card = training.pop("card", {})
    dropout = training.pop("dropout", 0.0)
    return make_config(
        device="cuda",
        quantization=training.pop("quantization", {}),
        lora={"r": 16, "lora_alpha": 32, "lora_dropout": dropout},
        training={"max_length": 2048, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8} | training,
        card=card,
    )


def test_shapes_are_read_without_weights(llama_8b: Shapes) -> None:
    parameters = sum(i * o for _, i, o in llama_8b.linear) + llama_8b.other_parameters
    assert parameters == 8_030_261_248
    assert len(llama_8b.linear) == 32 * 7


@pytest.mark.parametrize(
    ("quantization", "checkpointing", "dropout", "measured"),
    [({}, True, 0.05, 7.20), (None, True, 0.05, 17.02), ({}, False, 0.05, 22.38), ({}, False, 0.0, 18.04)],
)
def test_the_estimate_of_upstreams_way_is_near_the_measured_peak_and_never_under_it(
    llama_8b: Shapes, quantization: object, checkpointing: bool, dropout: float, measured: float
) -> None:
    """torch.cuda.max_memory_allocated on one H100, benchmarks/README.md."""
    config = qlora(quantization=quantization, dropout=dropout)
    layout = Layout(1, 8, 32 if checkpointing else 0, fixed_shape=False)
    assert 0.99 * measured <= estimate(llama_8b, config, layout).total / GIB <= 1.08 * measured


def test_the_adapter_is_counted_exactly(llama_8b: Shapes) -> None:
    layout = Layout(1, 8, 0, fixed_shape=True)
    config = make_config(lora={"r": 16, "lora_alpha": 32})
    assert estimate(llama_8b, config, layout).adapter_parameters == 41_943_040
    config = make_config(lora={"r": 8, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]})
    assert estimate(llama_8b, config, layout).adapter_parameters == 32 * 8 * (4096 + 4096 + 4096 + 1024)


# --- Layouts


def test_the_layout_is_the_fastest_that_fits_and_the_effective_batch_stays(llama_8b: Shapes) -> None:
    for vram in range(8, 81, 2):
        layout = choose(llama_8b, qlora(), vram * GIB, fixed_shape=True)
        assert layout is not None, vram
        assert layout.sequences * layout.accumulation == 8
        assert estimate(llama_8b, qlora(), layout).total <= vram * GIB
    assert choose(llama_8b, qlora(), 22.5 * GIB, fixed_shape=True) == Layout(2, 4, 0, fixed_shape=True)
    assert choose(llama_8b, qlora(), 80 * GIB, fixed_shape=True) == Layout(8, 1, 0, fixed_shape=True)
    assert choose(llama_8b, qlora(), 6 * GIB, fixed_shape=True) is None


def test_no_more_layers_are_recomputed_than_memory_demands(llama_8b: Shapes) -> None:
    config = qlora(card={"tokens_per_micro_batch": 8192})
    layout = choose(llama_8b, config, 22.5 * GIB, fixed_shape=True)
    assert layout is not None
    assert 0 < layout.recomputed < 32
    fewer = Layout(layout.sequences, layout.accumulation, layout.recomputed - 1, fixed_shape=True)
    assert estimate(llama_8b, config, fewer).total * 1.04 > 22.5 * GIB
    assert {one.sequences for one in candidates(llama_8b, config, fixed_shape=True)} == {4}


@pytest.mark.parametrize(("wanted", "recomputed"), [(True, 32), (False, 0)])
def test_what_the_config_says_of_recomputing_is_done(llama_8b: Shapes, wanted: bool, recomputed: int) -> None:
    layout = choose(llama_8b, qlora(activation_checkpointing=wanted), 80 * GIB, fixed_shape=True)
    assert layout is not None
    assert layout.recomputed == recomputed


def test_upstreams_way_keeps_the_configs_batch_and_recomputes_all_or_nothing(llama_8b: Shapes) -> None:
    config = qlora(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert choose(llama_8b, config, 40 * GIB, fixed_shape=False) == Layout(2, 4, 0, fixed_shape=False)
    assert choose(llama_8b, config, 16 * GIB, fixed_shape=False) == Layout(2, 4, 32, fixed_shape=False)
    assert choose(llama_8b, config, 7.8 * GIB, fixed_shape=False) == Layout(1, 8, 32, fixed_shape=False)


def test_after_a_lack_of_memory_the_next_layout_needs_clearly_less_until_none_is_left(llama_8b: Shapes) -> None:
    layout = choose(llama_8b, qlora(), 22.5 * GIB, fixed_shape=True)
    needs = []
    while layout is not None:
        needs.append(estimate(llama_8b, qlora(), layout).total)
        layout = smaller(llama_8b, qlora(), layout, 22.5 * GIB)
    assert len(needs) > 3
    *clearly, last = [after / before for before, after in itertools.pairwise(needs)]
    assert all(less <= 0.93 for less in clearly)
    assert last < 1
    least = min(estimate(llama_8b, qlora(), one).total for one in candidates(llama_8b, qlora(), fixed_shape=True))
    assert needs[-1] == least


@pytest.mark.parametrize("allowed", [19.0, 18.5, 18.0])
def test_where_most_of_it_is_weights_the_step_that_needs_least_is_tried_too(llama_8b: Shapes, allowed: float) -> None:
    config = qlora(quantization=None)
    layout = choose(llama_8b, config, allowed * GIB, fixed_shape=True)
    assert layout is not None
    assert layout.recomputed < 32
    following = smaller(llama_8b, config, layout, allowed * GIB)
    assert following is not None
    assert following.recomputed >= 31, "one that is computed again at a time, whichever"
    assert smaller(llama_8b, config, following, allowed * GIB) is None


def measured(name: str) -> list[dict[str, Any]]:
    """Peaks of training steps on packs, one H100; `benchmarks/train_memory.py` took them."""
    report = json.loads((ROOT / "benchmarks" / "results" / name).read_text())
    return [case for case in report["cases"] if case["packing"]]


LAUNCHED = measured("2026-11-26-h100-train-memory.json")
RECORDED = measured("2026-11-27-h100-train-memory.json")


def parts_of(case: dict[str, Any], folder: Path) -> dict[str, float]:
    from benchmarks.train_memory import Case, model_config, run_config

    of_model = model_config(case["shape"])
    of_model.save_pretrained(folder)
    config = run_config(Case(**{k: case[k] for k in Case.__dataclass_fields__}), case["max_length"], "cuda")
    layout = Layout(case["sequences"], 2, min(case["recomputed"], of_model.num_hidden_layers), fixed_shape=True)
    return estimate(shapes(ModelDir(folder)), config, layout).parts


def test_a_fit_that_leaves_a_case_or_a_model_out_predicts_it_as_well(tmp_path: Path) -> None:
    """Of what the recorded step takes: two numbers, found anew from the other peaks, relative least squares."""
    cases = []
    for number, case in enumerate(RECORDED):
        parts = parts_of(case, tmp_path / str(number))
        if recorded := parts.pop("recorded step", 0.0):
            cases.append((case["name"], case["shape"], sum(parts.values()), parts["activations"], recorded, case))
    assert len(cases) >= 12

    def found_from(others: list[Any]) -> Any:
        of_each = [[1 / one[5]["measured_bytes"] * x for x in (one[3], GIB)] for one in others]
        lacking = [1 - one[2] / one[5]["measured_bytes"] for one in others]
        return np.linalg.lstsq(np.array(of_each), np.array(lacking), rcond=None)[0]

    errors = []
    for name, shape, rest, activations, recorded, case in cases:
        for without in ([c for c in cases if c[0] != name], [c for c in cases if c[1] != shape]):
            share, constant = found_from(without)
            errors.append((rest + share * activations + constant * GIB) / case["measured_bytes"] - 1)
        assert recorded == pytest.approx(_IDLE_IN_A_RECORDING * activations + _OF_A_RECORDING)
    assert found_from(cases) == pytest.approx([_IDLE_IN_A_RECORDING, _OF_A_RECORDING / GIB], rel=0.05)
    assert min(errors) >= -0.021
    assert max(errors) <= 0.02


@pytest.mark.parametrize(("is_double", "of_a_weight"), [(True, 0.5159), (False, 0.5625)])
def test_scales_of_4_bit_weights_are_counted_as_they_are_stored(
    llama_8b: Shapes, is_double: bool, of_a_weight: float
) -> None:
    config = qlora(quantization={"bnb_4bit_use_double_quant": is_double})
    found = estimate(llama_8b, config, Layout(1, 8, 0, fixed_shape=True)).parts["base model"]
    in_linear = sum(i * o for _, i, o in llama_8b.linear)
    assert found - 2 * llama_8b.other_parameters == pytest.approx(of_a_weight * in_linear, rel=1e-3)


def test_there_are_peaks_to_compare_with() -> None:
    assert len(LAUNCHED) >= 12
    assert len(RECORDED) >= 12
    assert len({case["shape"] for case in RECORDED}) >= 5


@pytest.mark.parametrize("case", LAUNCHED, ids=lambda case: str(case["name"]))
def test_the_estimate_of_packs_that_arent_replayed_is_within_5_percent_of_the_peak_and_hardly_ever_under_it(
    case: dict[str, Any], tmp_path: Path
) -> None:
    parts = parts_of(case, tmp_path)
    predicted = sum(parts.values()) - parts.get("recorded step", 0.0)
    assert 0.98 <= predicted / case["measured_bytes"] <= 1.05


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: str(case["name"]))
def test_the_estimate_of_packs_is_at_most_5_percent_over_the_measured_peak_and_2_under_it(
    case: dict[str, Any], tmp_path: Path
) -> None:
    parts = parts_of(case, tmp_path)
    assert ("recorded step" in parts) == (not (case["recomputed"] and case["dropout"]))
    assert 0.98 <= sum(parts.values()) / case["measured_bytes"] <= 1.05
