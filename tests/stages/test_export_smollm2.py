"""Export on real weights: SmolLM2 after twelve steps of QLoRA on the demo's rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from solotune import cli
from solotune.artifacts.model_dir import ModelDir
from solotune.artifacts.run_dir import RunDir
from solotune.config.load import load
from solotune.config.schema import RunConfig
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.merge_proof import check

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parent.parent.parent
RUN = "20260101-000000-smoke-aaaaaa"
UP = "model.layers.7.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the run and its export: both merges measured, and GGUF files of the one that was kept."""
    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "data").mkdir()
    (folder / "data" / "raw").symlink_to(ROOT / "data" / "raw")
    (folder / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = [
            "training.max_steps=12",
            "training.eval_steps=0",
            "training.learning_rate=2e-3",
            "export.proof_examples=24",
        ]
        config = ["--config", "configs/smoke.yaml", *(word for value in short for word in ("--set", value))]
        for command in (
            ["fetch", *config],
            ["prepare", *config],
            ["train", *config, "--run-id", RUN],
            ["export", "--run", RUN, "--merge", "--gguf", "f16,q8_0"],
        ):
            assert cli.main(command) == 0
    return folder


@pytest.fixture
def run_dir(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(workspace)
    return RunDir(Path("runs") / RUN)


def artefacts_of(run_dir: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_dir.export_record.read_text())["artefacts"]
    return found


def test_the_merge_into_the_weights_that_it_was_trained_on_is_the_adapter(run_dir: RunDir) -> None:
    record = artefacts_of(run_dir)
    kept, other = record["merged"], record["merged-original"]
    assert (kept["merge_base"], kept["recommended"], kept["passed"]) == ("dequantised", True, True)
    assert kept["measured"]["base_loss"] > kept["measured"]["adapter_loss"] + 1  # it has learned something
    assert kept["divergence"]["kl_mean"] < 0.003
    assert kept["divergence"]["greedy_agreement"] > 0.97
    assert kept["measured"]["update_kept"] > 0.9
    # The original weights are another model: ten times as far away.
    assert other["divergence"]["kl_mean"] > 10 * kept["divergence"]["kl_mean"]
    assert abs(other["measured"]["difference"]) > abs(kept["measured"]["difference"])


@pytest.mark.parametrize(("kind", "kl"), [("f16", 0.003), ("q8_0", 0.01)])
def test_the_gguf_in_llama_cpp_is_the_adapter(run_dir: RunDir, kind: str, kl: float) -> None:
    record = artefacts_of(run_dir)
    found, merged = record[f"gguf-{kind}"], record["merged"]
    assert found["passed"]
    assert found["divergence"]["kl_mean"] < kl
    assert found["divergence"]["positions"] == merged["divergence"]["positions"]
    assert found["measured"]["loss"] == pytest.approx(merged["measured"]["loss"], abs=0.02)
    assert 'PARAMETER stop "<|im_end|>"' in (run_dir.export / "gguf" / kind / "Modelfile").read_text()


def faults(run_dir: RunDir, folder: Path, base: ModelDir | None = None, adapter: Path | None = None) -> list[str]:
    config = load(run_dir.config)
    weights = BaseWeights(base or ModelDir.of(config.model), config, dequantised=True)
    return check(folder, weights, adapter or run_dir.adapter, "bfloat16", run_dir.manifest().template_sha256).faults


def config_of(run_dir: RunDir) -> RunConfig:
    return load(run_dir.config)


@pytest.fixture
def broken(run_dir: RunDir, tmp_path: Path) -> Path:
    """A copy of the merged model, to break."""
    folder = tmp_path / "merged"
    shutil.copytree(run_dir.export / "merged", folder)
    return folder


def change(folder: Path, name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = to(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_what_was_exported_has_no_fault(run_dir: RunDir) -> None:
    assert faults(run_dir, run_dir.export / "merged") == []


def test_one_layer_skipped_is_caught_by_name(run_dir: RunDir, broken: Path) -> None:
    config = config_of(run_dir)
    base = ModelDir.of(config.model)
    own = BaseWeights(base, config, dequantised=True).read(base.weight_files()[0], UP)
    change(broken, UP, lambda stored: own.to(stored.dtype))  # a float32 run reads it in float32
    assert faults(run_dir, broken) == [f"the adapter isn't in {UP}: there is the base's own weight"]


def test_a_changed_template_is_caught_by_name(run_dir: RunDir, broken: Path) -> None:
    template = broken / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "Assistant"))
    assert faults(run_dir, broken) == ["chat_template.jinja isn't the one that the run was trained with"]


def test_a_swapped_base_is_caught_by_name(run_dir: RunDir, broken: Path, tmp_path: Path) -> None:
    base = ModelDir(tmp_path / "another")
    shutil.copytree(ModelDir.of(config_of(run_dir).model).path, base.path)
    tensors = load_file(base.weight_files()[0])
    noise = torch.Generator().manual_seed(0)
    further = {n: t + 0.01 * t.std() * torch.randn(t.shape, generator=noise).bfloat16() for n, t in tensors.items()}
    save_file(further, base.weight_files()[0], metadata={"format": "pt"})
    (fault,) = faults(run_dir, broken, base=base)
    assert fault.startswith("another base model is under it: model.embed_tokens.weight")


def test_the_adapter_of_another_run_is_caught_by_name(run_dir: RunDir, broken: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(run_dir.adapter, adapter)
    file = adapter / "adapter_model.safetensors"
    save_file(
        {name: -tensor for name, tensor in load_file(file).items() if "lora_A" in name}
        | {name: tensor for name, tensor in load_file(file).items() if "lora_B" in name},
        file,
    )
    (fault,) = faults(run_dir, broken, adapter=adapter)
    assert fault.startswith("another adapter is in it: none of the 210 adapted layers")
