"""plan: what fits, what doesn't, and the nearest setting that does; from shapes alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.helpers import LLAMA_8B
from tests.tiny import make_tokenizer

from solotune import cli, environment
from solotune.artifacts.run_dir import RunDir
from solotune.stages import plan


@pytest.fixture
def large(small_experiment: Path, tmp_path: Path, tiny_tokenizer: Path) -> Path:
    """small.yaml on a GPU, for a base model of 8B whose weights are an empty file: no weight is ever looked at."""
    model = tmp_path / "large"
    model.mkdir()
    make_tokenizer(model)
    (model / "config.json").write_text(json.dumps(LLAMA_8B))
    (model / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    text = small_experiment.read_text()
    name = re.search(r"name_or_path: (\S+?),", text)
    assert name is not None
    text = text.replace(name[1], str(model)).replace("device: cpu", "device: cuda")
    text = text.replace("max_length: 128", "max_length: 2048").replace(
        "per_device_train_batch_size: 2", "per_device_train_batch_size: 1"
    )
    text = text.replace("gradient_accumulation_steps: 2", "gradient_accumulation_steps: 8")
    text = text.replace("activation_checkpointing: false", "activation_checkpointing: null").replace(
        "lora_dropout: 0.1", "lora_dropout: 0.0"
    )
    small_experiment.write_text(text)
    assert cli.main(["fetch", "--config", "small.yaml"]) == 0
    assert cli.main(["prepare", "--config", "small.yaml"]) == 0
    return small_experiment


def planned(capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(["plan", "--config", "small.yaml", *more]) == code
    said = capsys.readouterr()
    return said.out + said.err


def test_a_24_gb_card_takes_an_8b_model_in_packs_without_recomputation(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = planned(capsys, "--vram", "24")
    assert "a step: 4 forward passes of 4,096 tokens, 0 of 32 layers recomputed" in said
    for part in ("base model", "adapter and its gradient", "optimiser", "activations", "output head"):
        assert part in said
    assert "determinism: the same machine, config and data give the same adapter" in said
    assert re.search(r"fits: 1\d\.\d of 22\.0 GiB that a card of 24 GB has to give", said)


def test_a_smaller_card_recomputes_and_the_effective_batch_stays(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = planned(capsys, "--vram", "12")
    found = re.search(r"a step: (\d) forward passes of ([\d,]+) tokens, (\d+) of 32 layers recomputed", said)
    assert found is not None
    assert int(found[1]) * int(found[2].replace(",", "")) == 8 * 2048
    assert planned(capsys, "--vram", "24", "--set", "card.vram_gib=10.26").count(found[0]) == 1, "the cap is the card"


def test_what_doesnt_fit_says_the_nearest_setting_that_does(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = planned(capsys, "--vram", "24", "--set", "training.activation_checkpointing=false",
                   "--set", "card.tokens_per_micro_batch=16384", code=2)  # fmt: skip
    assert "training needs about " in said
    assert "It fits with --set training.activation_checkpointing=null --set card.tokens_per_micro_batch=null" in said
    said = planned(capsys, "--vram", "8.5", code=2)
    advice = re.search(r"It fits with --set (training\.max_length=\d+)", said)
    assert advice is not None
    assert "fits: " in planned(capsys, "--vram", "8.5", "--set", advice[1])
    assert "Choose a smaller base model" in planned(capsys, "--vram", "6", code=2)


@pytest.mark.parametrize("vram", ["16", "8.5"])
def test_lora_is_told_to_quantise_and_with_what_else_it_fits_then(
    large: Path, capsys: pytest.CaptureFixture[str], vram: str
) -> None:
    lora = ("--vram", vram, "--set", "quantization=null", "--set", "training.activation_checkpointing=false")
    said = planned(capsys, *lora, code=2)
    settings = re.search(r"It fits with ((?:--set \S+ ?)+)", said)
    assert settings is not None, said
    assert settings[1].startswith("--set quantization.load_in_4bit=true --set training.activation_checkpointing=null")
    assert ("training.max_length" in settings[1]) == (vram == "8.5")
    assert "fits: " in planned(capsys, "--vram", vram, *settings[1].split())


def test_a_length_that_a_row_doesnt_fit_into_comes_with_what_becomes_of_the_row(
    large: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "lengths_of", lambda _: [40, 1900])
    said = planned(capsys, "--vram", "8.5", code=2)
    assert "--set dataset.on_overflow=drop, without longer rows (the longest row has 1,900 tokens)" in said
    assert "on_overflow" not in planned(capsys, "--vram", "6", code=2), "no length helps there"


def test_each_token_counts_once_an_epoch_however_full_its_last_step_is(
    small_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fetch", "--config", "small.yaml"]) == 0
    assert cli.main(["prepare", "--config", "small.yaml"]) == 0
    tokens = set()
    for effective in (1, 4, 64):
        for epochs in (1, 3):
            settings = (f"gradient_accumulation_steps={effective}", f"num_train_epochs={epochs}", "max_steps=-1",
                        "per_device_train_batch_size=1")  # fmt: skip
            said = planned(capsys, *(word for one in settings for word in ("--set", f"training.{one}")))
            tokens.add(int(found(r"tokens: ([\d,]+) in all steps", said).replace(",", "")) / epochs)
    assert len(tokens) == 1, "of an epoch"


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def test_time_is_told_from_a_run_with_the_same_settings_or_says_in_what_it_differs(
    small_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fetch", "--config", "small.yaml"]) == 0
    assert cli.main(["prepare", "--config", "small.yaml"]) == 0
    assert "time: not known yet" in planned(capsys)
    short = ("--set", "training.eval_steps=0", "--set", "training.max_steps=2")
    same, other = "20260101-000000-small-aaaaaa", "20260101-000001-small-bbbbbb"
    assert cli.main(["train", "--config", "small.yaml", *short, "--run-id", same]) == 0
    assert cli.main(["train", "--config", "small.yaml", *short, "--run-id", other, "--set", "lora.r=2"]) == 0
    outcome = RunDir(Path("runs") / same).finished()[1]
    assert (
        f"at the {outcome.tokens / outcome.seconds:,.0f} tokens/s of run {same}; loading and evaluation apart"
        in planned(capsys)
    )
    said = planned(capsys, "--set", "lora.r=2", "--set", "training.max_length=256")
    assert f"of run {other}, which differs in training.max_length; loading and evaluation apart" in said


def test_without_vram_the_plan_is_for_the_card_that_is_here_as_cuda_shows_it(
    large: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA shows none where CUDA_VISIBLE_DEVICES is empty, as the stages that need no GPU have it."""
    monkeypatch.setattr(environment, "nvidia_smi", lambda _: [["NVIDIA GeForce RTX 4090", "24564 MiB", "580.95"]])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # those before it were processes of their own
    shown = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=int(23.65 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: shown)
    said = planned(capsys)
    assert re.search(r"fits: 1\d\.\d of 22\.1 GiB that NVIDIA GeForce RTX 4090 has to give", said)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "torch sees none. `invoke doctor` says why; `--vram 24` plans for a card" in planned(capsys, code=2)


def test_a_card_allows_no_more_than_it_has(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = planned(capsys, "--vram", "12", "--set", "card.vram_gib=20", code=2)
    assert "card.vram_gib allows 20 GiB, and the GPU has 11.8" in said


def test_a_micro_batch_that_doesnt_divide_the_effective_batch_is_refused_with_those_that_do(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = planned(capsys, "--vram", "24", "--set", "card.tokens_per_micro_batch=6144", code=2)
    assert "doesn't divide the effective batch of 8 sequences of 2048 tokens; these do: 2048, 4096, 8192, 16384" in said


def test_what_isnt_promised_is_told(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = planned(capsys, "--vram", "24", "--set", "determinism=seeded")
    assert "determinism: seeded: kernels may add in another order" in said
