"""The whole step, and when it may be taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import make_config
from tests.modeling.step.small import (
    CONFIGS,
    VOCABULARY,
    WINDOWS,
    adapted,
    arguments,
    assert_close,
    base,
    documents,
    gradients,
    labels_in,
    loss_alone,
    packed,
)

from solotune.artifacts.model_dir import ModelDir
from solotune.config.schema import RunConfig
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.step import FAMILIES, FixedStep, head, why_not


def taken(step: FixedStep, model: Any, rows: list[Encoded], **more: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Loss and gradients of one step on a pack."""
    model.zero_grad()
    loss = step.loss(packed(rows, **more), labels_in(rows))
    loss.backward()
    return loss.detach(), gradients(model)


def alone(model: Any, rows: list[Encoded]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Loss and gradients, a row at a time, by upstream's way."""
    model.zero_grad()
    loss = loss_alone(model, rows)
    loss.backward()
    return loss.detach(), gradients(model)


def hidden_states(step: FixedStep, rows: list[Encoded], **more: Any) -> list[torch.Tensor]:
    """Of each row, from a pack of all."""
    step.on()
    with torch.no_grad():
        hidden = step._causal.base_model(**arguments(packed(rows, **more))).last_hidden_state[0]
    return list(hidden[: sum(len(row.input_ids) for row in rows)].split([len(row.input_ids) for row in rows]))


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_rows_alone(family: str, bits: int, windowed: bool) -> None:
    if windowed and family not in WINDOWS:
        pytest.skip(f"{family} has no sliding window")
    model = adapted(base(family, **(WINDOWS[family] if windowed else {})), bits=bits)
    wanted = alone(model, documents())
    assert_close(taken(FixedStep(model, compiled=False), model, documents()), wanted)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_may_be_tied_to_the_embedding(tied: bool) -> None:
    model = adapted(base("llama", tie_word_embeddings=tied))
    wanted = alone(model, documents())
    assert_close(taken(FixedStep(model, compiled=False), model, documents()), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_doesnt_depend_on_its_neighbours_in_the_pack(family: str) -> None:
    step = FixedStep(adapted(base(family)), compiled=False)
    rows = documents()
    together = hidden_states(step, rows)
    for others in (documents(seed=9), documents(seed=10)):
        mixed = [others[0], rows[1], others[2], rows[3], others[4]]
        found = hidden_states(step, mixed)
        for i in (1, 3):
            torch.testing.assert_close(found[i], together[i], atol=1e-6, rtol=1e-6)
        # And the others did change, so that equal ones above say something.
        assert not torch.allclose(found[0][:5], together[0][:5], atol=1e-2)
    torch.testing.assert_close(hidden_states(step, [rows[3]])[0], together[3], atol=1e-6, rtol=1e-6)


def test_rows_that_see_each_other_would_be_noticed() -> None:
    """The test above, with two rows made one by their boundaries: it must not pass."""
    step = FixedStep(adapted(base()), compiled=False)
    rows = documents()
    right = packed(rows)
    wrong = dict(right)
    documents_in_pack, _ = right["pack_extent"]
    ends = right["pack_ends"].tolist()
    wrong["pack_ends"] = torch.tensor([ends[0], *ends[2:], ends[-1]], dtype=torch.int32)
    wrong["pack_extent"] = (documents_in_pack - 1, ends[2])
    step.on()
    with torch.no_grad():
        clean, mixed = (step._causal.base_model(**arguments(pack)).last_hidden_state[0] for pack in (right, wrong))
    torch.testing.assert_close(mixed[: ends[1]], clean[: ends[1]], atol=1e-6, rtol=1e-6)
    assert ((mixed - clean)[ends[1] : ends[2]].abs().amax(-1) > 1e-3).all()
    torch.testing.assert_close(mixed[ends[2] :], clean[ends[2] :], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("more", [{"pad_id": 7}, {"tokens": 128}, {"most_rows": 20}])
def test_the_filler_at_the_end_changes_nothing(more: dict[str, int]) -> None:
    model = adapted(base())
    step = FixedStep(model, compiled=False)
    assert_close(taken(step, model, documents(), **more), taken(step, model, documents()), 1e-6)


def test_a_full_pack_needs_no_filler() -> None:
    model = adapted(base())
    wanted = alone(model, documents())
    full = sum(len(row.input_ids) for row in documents())
    assert_close(taken(FixedStep(model, compiled=False), model, documents(), tokens=full, most_rows=5), wanted)


def test_a_pack_without_labels_adds_nothing() -> None:
    model = adapted(base())
    step = FixedStep(model, compiled=False)
    unlabelled = [Encoded([5, 6, 7], [IGNORE] * 3)]
    loss = step.loss(packed(unlabelled), 10)
    loss.backward()
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients(model).values())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("recomputed", [1, 3])
def test_recomputed_layers_change_no_bit(recomputed: int, dropout: float) -> None:
    model = adapted(base(), dropout=dropout)
    torch.manual_seed(5)
    wanted = taken(FixedStep(model, compiled=False), model, documents())
    torch.manual_seed(5)
    assert_close(taken(FixedStep(model, recomputed=recomputed, compiled=False), model, documents()), wanted, 0.0)


@pytest.mark.parametrize("bits", [16, 4])
def test_off_gives_back_a_model_that_generates_and_evaluates_as_before(bits: int) -> None:
    model = adapted(base("qwen3"), bits=bits)
    prompt = torch.tensor([[5, 6, 7, 8, 9], [0, 0, 5, 6, 7]])
    attended = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]])

    @torch.no_grad()
    def answers_and_scores() -> tuple[torch.Tensor, torch.Tensor]:
        model.eval()
        generated = model.generate(input_ids=prompt, attention_mask=attended, max_new_tokens=6, do_sample=False)
        scores = torch.stack([loss_alone(model, [row]) for row in documents()])  # few rows each: upstream's kernel
        model.train()
        return generated, scores

    before = answers_and_scores()
    trained_before = alone(model, documents())
    step = FixedStep(model, recomputed=1, compiled=False)
    taken(step, model, documents())
    step.off()
    after = answers_and_scores()
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert_close(alone(model, documents()), trained_before)
    assert model.config._attn_implementation == "sdpa"
    # And back again.
    wanted = taken(step, model, documents())
    assert_close(wanted, trained_before)
    step.off()
    step.off()
    assert torch.equal(answers_and_scores()[0], before[0])


def test_padded_batches_while_it_is_on_are_refused() -> None:
    model = adapted(base())
    step = FixedStep(model, compiled=False)
    step.on()
    with pytest.raises(ValueError, match="packed_varlen needs packs"):
        model(input_ids=torch.tensor([[5, 6, 7]]))


CUDA = {
    "device": "cuda",
    "model": {"name_or_path": "somewhere", "source": "folder"},
    "training": {"max_length": 128, "max_steps": 2, "eval_steps": 0},
}


def on_cuda(**sections: Any) -> RunConfig:
    return make_config(**{**CUDA, **sections})


def folder(path: Path, **more: Any) -> ModelDir:
    """A model folder with a config.json; more are its keys."""
    found = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, **more}
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(found))
    return ModelDir(path)


@pytest.mark.parametrize("quantization", [None, {}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_usual_run_is_for_packs_of_one_shape(family: str, quantization: object, tmp_path: Path) -> None:
    base(family).config.save_pretrained(tmp_path)
    assert why_not(on_cuda(quantization=quantization), ModelDir(tmp_path)) == ""


@pytest.mark.parametrize(
    ("config", "model", "said"),
    [
        ({"device": "cpu"}, {}, "it is for GPUs"),
        ({"training": {"max_length": 128, "packing": False}}, {}, "training.packing is off"),
        ({"model": {**CUDA["model"], "dtype": "float32"}}, {}, "model.dtype isn't bfloat16"),
        ({"model": {**CUDA["model"], "attn_implementation": "eager"}}, {}, "model.attn_implementation isn't sdpa"),
        ({"quantization": {"bnb_4bit_quant_type": "fp4"}}, {}, "quantization.bnb_4bit_quant_type isn't nf4"),
        ({}, {"model_type": "gemma2"}, "layers of gemma2 models haven't been tried with it"),
        ({}, {"model_type": None}, "layers of None models haven't been tried with it"),
        ({}, {"quantization_config": {"quant_method": "fp8"}}, "this model came quantised"),
        ({}, {"attention_dropout": 0.1}, "this model drops out in its attention"),
        ({}, {"logit_scale": 0.0625}, "this model scales or caps its logits"),
        ({}, {"final_logit_softcapping": 30.0}, "this model scales or caps its logits"),
        ({}, {"num_attention_heads": 16}, "the attention kernel knows no heads of 4"),
        ({}, {"head_dim": 512}, "the attention kernel knows no heads of 512"),
        (
            {},
            {"model_type": "smollm3", "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
            "use_sliding_window and layer_types in this model's config.json contradict",
        ),
    ],
)
def test_what_speaks_against_it_is_named(
    config: dict[str, Any], model: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert why_not(on_cuda(), folder(tmp_path)) == ""
    assert why_not(on_cuda(**config), folder(tmp_path, **model)) == said


def test_smollm3_has_a_mask_with_a_window_that_its_attention_isnt_told() -> None:
    """Why such a config.json is refused; where this fails, the refusal can go."""
    model = base("smollm3", sliding_window=4, use_sliding_window=False, layer_types=["sliding_attention"] * 3)
    assert all(layer.self_attn.sliding_window is None for layer in model.model.layers)
    assert model.model.has_sliding_layers


@pytest.mark.parametrize("key", head.CHANGES_LOGITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_isnt_supported_is_refused_by_its_config_already(family: str, key: str, tmp_path: Path) -> None:
    """The assertion in FixedStep must not fail."""
    for value in (None, 1, 1.0, 0.5):
        model = base(family, **({} if value is None else {key: value}))
        model.requires_grad_(False)
        model.config.save_pretrained(tmp_path)
        assert head.supported(model) == (why_not(on_cuda(), ModelDir(tmp_path)) == "")
    assert not head.supported(model)


def test_the_families_are_those_that_are_tested() -> None:
    assert tuple(sorted(CONFIGS)) == FAMILIES
    assert base().config.vocab_size == VOCABULARY
