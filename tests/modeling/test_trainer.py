from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers import make_config

from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
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


def trained(tiny_model: Path, folder: Path, config: RunConfig) -> AdapterTrainer:
    base = ModelDir(tiny_model)
    run = RunDir(folder)
    folder.mkdir()
    trainer = AdapterTrainer(load_base_model(base, config), base, config, run, rows(), rows()[:2], pad_id=0)
    trainer.train()
    return trainer


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
