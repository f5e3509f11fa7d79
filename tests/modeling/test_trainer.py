from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers import make_config

from solotune.artifacts.files import write_text
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import Layout
from solotune.config.load import resolved_yaml
from solotune.config.schema import RunConfig
from solotune.modeling.base_model import load_base_model
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.trainer import AdapterTrainer, make_sequences, steps_in_all

FLOAT32 = {"name_or_path": "somewhere", "source": "folder", "dtype": "float32"}


def rows() -> list[Encoded]:
    generator = torch.Generator().manual_seed(5)
    made = []
    for i in range(8):
        ids = torch.randint(3, 400, (10 + 9 * i,), generator=generator).tolist()
        made.append(Encoded(ids, [IGNORE] * (3 + i) + ids[3 + i :]))
    return made


def trained(tiny_model: Path, folder: Path, config: RunConfig, layout: Layout | None = None) -> AdapterTrainer:
    base = ModelDir(tiny_model)
    run = RunDir(folder)
    folder.mkdir()
    write_text(run.config, resolved_yaml(config))
    layout = layout or plain(config)
    model = load_base_model(base, config)
    trainer = AdapterTrainer(model, base, config, run, rows(), rows()[:2], pad_id=0, layout=layout)
    trainer.train()
    return trainer


def plain(config: RunConfig) -> Layout:
    """Upstream's way, as the config says."""
    training = config.training
    return Layout(training.per_device_train_batch_size, training.gradient_accumulation_steps, 0, fixed_shape=False)


def adapter(trainer: AdapterTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


@pytest.mark.parametrize("packing", [True, False])
def test_accumulation_weights_the_loss_by_token(tiny_model: Path, tmp_path: Path, packing: bool) -> None:
    """One step of 8 rows at once equals one step of 4 times 2, though the rows are of unequal lengths."""

    def config(batch: int, accumulation: int) -> RunConfig:
        training = {
            "max_length": 96,
            "max_steps": 1,
            "learning_rate": 0.01,
            "warmup_steps": 0,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
            "activation_checkpointing": False,
            "packing": packing,
            "eval_steps": 0,
        }
        return make_config(model=FLOAT32, training=training)

    at_once = trained(tiny_model, tmp_path / "a", config(8, 1))
    in_parts = trained(tiny_model, tmp_path / "b", config(2, 4))
    assert torch.allclose(adapter(at_once), adapter(in_parts), atol=2e-4)
    assert at_once.state.log_history[0]["loss"] == pytest.approx(in_parts.state.log_history[0]["loss"], abs=1e-4)


def test_the_loss_on_a_cpu_is_upstreams_loss(tiny_model: Path, tmp_path: Path) -> None:
    import trl

    from solotune.modeling.packing import collate, join

    trainer = trained(tiny_model, tmp_path / "a", make_config(model=FLOAT32))
    trainer.model.train()
    found = []
    for compute_loss in (trainer.compute_loss, lambda *a, **k: trl.SFTTrainer.compute_loss(trainer, *a, **k)):
        batch = collate([join(rows()[:3]), join(rows()[3:5])], pad_id=0)
        if found:
            batch.pop("real_tokens")
        trainer.model.zero_grad()
        value = compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(77))
        value.backward()
        gradients = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad])
        found.append((value.item(), gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


def test_adapters_stay_in_float32_on_a_quantised_model(tiny_model: Path, tmp_path: Path) -> None:
    trainer = trained(tiny_model, tmp_path / "a", make_config(quantization={}))
    kinds = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    assert kinds == {torch.float32}


def test_the_evaluation_loss_is_exact(tiny_model: Path, tmp_path: Path) -> None:
    training = {"max_length": 128, "max_steps": 1, "eval_steps": 1, "activation_checkpointing": False}
    trainer = trained(tiny_model, tmp_path / "a", make_config(model=FLOAT32, training=training))
    found = trainer.evaluate()
    nll, count = 0.0, 0
    trainer.model.eval()
    for row in rows()[:2]:
        with torch.no_grad():
            out = trainer.model(input_ids=torch.tensor([row.input_ids]))
        targets = torch.tensor(row.labels[1:])
        nll += float(
            torch.nn.functional.cross_entropy(out.logits[0, :-1], targets, reduction="sum", ignore_index=IGNORE)
        )
        count += int((targets != IGNORE).sum())
    assert found["eval_loss"] == pytest.approx(nll / count, abs=1e-4)
    assert found["eval_tokens"] == count


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_steps_are_counted_as_upstream_counts_them(
    tiny_model: Path, tmp_path: Path, batch: int, accumulation: int
) -> None:
    training = {
        "max_length": 96,
        "num_train_epochs": 1.5,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "activation_checkpointing": False,
        "eval_steps": 0,
    }
    config = make_config(training=training)
    trainer = trained(tiny_model, tmp_path / "a", config)
    assert trainer.state.max_steps == steps_in_all(len(make_sequences(rows(), config)), config)


@pytest.mark.parametrize("quantization", [None, {}])
@pytest.mark.parametrize(("sequences", "recomputed"), [(1, 0), (2, 0), (4, 1), (4, 2)])
def test_packs_of_one_shape_train_what_upstreams_way_trains(
    tiny_model: Path, tmp_path: Path, quantization: object, sequences: int, recomputed: int
) -> None:
    """Whatever the layout: the effective batch, the loss of every step and the adapter are the same."""
    training = {
        "max_length": 96,
        "max_steps": 3,
        "learning_rate": 0.003,
        "warmup_steps": 0,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "eval_steps": 2,
    }
    config = make_config(model=FLOAT32, training=training, quantization=quantization)
    straight = trained(tiny_model, tmp_path / "a", config)
    layout = Layout(sequences, 4 // sequences, recomputed, fixed_shape=True)
    packed = trained(tiny_model, tmp_path / "b", config, layout)
    assert packed.step is not None
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (straight, packed)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3 if quantization is not None else 2e-5)
    evaluations = [[x["eval_loss"] for x in t.state.log_history if "eval_loss" in x] for t in (straight, packed)]
    assert evaluations[0] == pytest.approx(evaluations[1], abs=2e-3 if quantization is not None else 2e-5)
    # Adam's first steps turn noise of gradients near 0 into whole steps, so single weights say little.
    cosine = torch.nn.functional.cosine_similarity(adapter(straight), adapter(packed), dim=0)
    assert cosine > 0.995
