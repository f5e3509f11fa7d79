"""GGUF files with wrong weights and right metadata: what export's proof makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from solotune import cli
from solotune.artifacts.files import record_files
from solotune.artifacts.run_dir import RunDir
from solotune.modeling import gguf_export

Tensors = dict[str, gguf.ReaderTensor]


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run, merged and exported as GGUF."""
    workspace = tmp_path_factory.mktemp("made")
    shutil.copytree(trained, workspace, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        assert cli.main(["export", "--run", "latest", "--merge", "--gguf", "f16"]) == 0
    return workspace


def without_values(tensors: Tensors) -> None:
    tensors["blk.1.attn_v.weight"].data[:] = 0


def two_layers_swapped(tensors: Tensors) -> None:
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        one, other = (tensors[f"blk.{i}.{name}.weight"].data for i in (0, 1))
        kept = np.array(one)
        one[:] = other
        other[:] = kept


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (without_values, "blk.1.attn_v.weight isn't model.layers.1.self_attn.v_proj.weight"),
        (two_layers_swapped, "blk.0.ffn_down.weight isn't model.layers.0.mlp.down_proj.weight; blk.0.ffn_gate"),
    ],
    ids=["without values", "two layers swapped"],
)
def test_a_gguf_with_wrong_weights_is_refused_with_their_names(
    made: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Tensors], None],
    named: str,
) -> None:
    shutil.copytree(made, workspace, dirs_exist_ok=True)
    run_dir = RunDir.find(Path("runs"), "latest")
    (right,) = made.glob("runs/*/export/gguf/f16/*.gguf")

    def convert(merged: Path, out: Path, outtype: str, **_: str) -> str:
        shutil.copyfile(right, out)
        spoil({tensor.name: tensor for tensor in gguf.GGUFReader(out, "r+").tensors})
        gguf_export.check_metadata(out, merged)
        return "convert-hf-to-gguf"

    monkeypatch.setattr(gguf_export, "convert", convert)
    before = record_files(run_dir.export)
    assert cli.main(["export", "--run", "latest", "--gguf", "bf16"]) == 2
    said = capsys.readouterr().err
    assert f"small-bf16.gguf holds other weights than the merged model: {named}" in said
    assert record_files(run_dir.export) == before
