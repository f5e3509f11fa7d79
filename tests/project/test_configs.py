"""Every YAML file under configs/ resolves; the parts of a folder are interchangeable."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from solotune.config.load import load, resolved_yaml
from solotune.config.schema import RunConfig
from solotune.metrics import problems

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
FILES = sorted(CONFIGS.rglob("*.y*ml"))
EXPERIMENTS = [path for path in FILES if path.parent == CONFIGS]
SHIPPED = [CONFIGS / name for name in ("sft_lora.yaml", "sft_qlora.yaml", "smoke.yaml")]
MODELS = [path for path in FILES if path.parent == CONFIGS / "models"]
DATASETS = [path for path in FILES if path.parent == CONFIGS / "datasets"]


def shown(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def config_of(path: Path, tmp_path: Path) -> RunConfig:
    """The experiment, or the smallest experiment that the part makes."""
    if path in EXPERIMENTS:
        return load(path)
    needs = {
        "model": "model: {name_or_path: org/model, revision: 0123456789abcdef0123456789abcdef01234567}\n",
        "dataset": "dataset: {raw_files: [rows.jsonl]}\n",
    }
    written = yaml.safe_load(path.read_text("utf-8"))
    more = "".join(text for section, text in needs.items() if section not in written)
    experiment = tmp_path / "part.yaml"
    experiment.write_text(f"extends: {path}\n{more}")
    return load(experiment)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """`{"lora.r": 16, …}`"""
    pairs: dict[str, Any] = {}
    for key, value in values.items():
        inner = flat(value) if isinstance(value, dict) and key not in ("columns", "metrics_by_tag") else None
        pairs |= {key: value} if inner is None else {f"{key}.{name}": inner[name] for name in inner}
    return pairs


def written_in(path: Path) -> set[str]:
    return set(flat(yaml.safe_load(path.read_text("utf-8")))) - {"extends"}


def test_the_files_are_found():
    assert {path.name for path in EXPERIMENTS} >= {"sft_lora.yaml", "sft_qlora.yaml", "smoke.yaml"}
    assert len(MODELS) >= 7
    assert {path.name for path in DATASETS} >= {"demo.yaml", "my_rows.yaml"}
    assert sorted([*EXPERIMENTS, *MODELS, *DATASETS]) == FILES, "a file in a folder that no test covers"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_file_resolves_to_a_config_that_loads_back(path: Path, tmp_path: Path):
    config = config_of(path, tmp_path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(resolved_yaml(config), encoding="utf-8")
    assert load(resolved) == config


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_every_metric_exists(path: Path, tmp_path: Path):
    assert problems(config_of(path, tmp_path).evaluation) == []


@pytest.mark.parametrize("model", MODELS, ids=shown)
@pytest.mark.parametrize("dataset", DATASETS, ids=shown)
@pytest.mark.parametrize("experiment", ["sft_lora.yaml", "sft_qlora.yaml"])
def test_every_model_and_data_set_go_with_both_experiments(experiment: str, dataset: Path, model: Path, tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(f"extends: [{CONFIGS / experiment}, {model}, {dataset}]\n")
    config = load(path)
    part = config_of(model, tmp_path)
    assert config.model == part.model
    assert (config.quantization is None) == (experiment == "sft_lora.yaml")
    assert config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps == 8
    assert config.dataset == config_of(dataset, tmp_path).dataset


def test_models_set_the_same_keys_so_that_none_leaves_something_of_another():
    assert len({frozenset(written_in(path)) for path in MODELS}) == 1


def test_data_sets_set_what_the_demo_sets_because_experiments_extend_the_demo():
    demo = written_in(CONFIGS / "datasets/demo.yaml")
    for path in DATASETS:
        assert demo <= written_in(path), path.name


def test_qlora_differs_from_lora_only_in_what_its_files_say():
    lora, qlora = (flat(load(CONFIGS / f"sft_{name}.yaml").model_dump()) for name in ("lora", "qlora"))
    said = written_in(CONFIGS / "sft_qlora.yaml") | written_in(CONFIGS / "models/qwen3-8b.yaml")
    different = {key for key in lora.keys() | qlora.keys() if lora.get(key) != qlora.get(key)}
    assert different - {"name", "quantization"} <= said
    assert "quantization.load_in_4bit" in different
    assert lora["quantization"] is None


def test_the_experiments_fit_a_24_gb_card_by_what_they_say():
    for name in ("sft_lora.yaml", "sft_qlora.yaml"):
        training = load(CONFIGS / name).training
        assert (training.max_length, training.per_device_train_batch_size) == (2048, 1)
        assert training.activation_checkpointing is None
    assert load(CONFIGS / "sft_lora.yaml").model.name_or_path == "Qwen/Qwen3-4B-Instruct-2507"


def test_the_raw_files_that_experiments_name_are_committed():
    for path in SHIPPED:
        for pattern in load(path).dataset.raw_files:
            assert list(REPOSITORY.glob(pattern)), f"{path.name}: {pattern}"


def test_the_smoke_experiment_needs_no_network_and_no_gpu():
    config = load(CONFIGS / "smoke.yaml")
    assert (config.device, config.model.source) == ("cpu", "package")
    assert config.dataset.splits_dir != load(CONFIGS / "sft_lora.yaml").dataset.splits_dir


def test_the_readme_names_every_experiment():
    text = (CONFIGS / "README.md").read_text("utf-8")
    for path in SHIPPED:
        assert f"`{path.name}`" in text
