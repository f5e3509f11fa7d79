"""The Go template is read here by a few lines that know what Go's text/template does with what we write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.helpers import chat
from tests.modeling.families import FAMILIES, build
from tests.tiny import CHATML

from solotune.modeling import ollama
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.ollama import go_template, markup_of, modelfile
from solotune.modeling.template import ChatTemplate


def render_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama's Execute gives for these messages."""
    system = "".join(m["content"] for m in messages if m["role"] == "system")
    opening, loop, answer = re.fullmatch(
        r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    conditional = re.fullmatch(r"\{\{ if not \.System \}\}(.*)\{\{ end \}\}", opening, re.DOTALL)
    if conditional:
        opening = "" if system else conditional[1]
    branches = dict(
        re.match(r'(?:\{\{ )?if eq \.Role "(\w+)" \}\}(.*)', branch, re.DOTALL).groups()  # type: ignore[union-attr]
        for branch in loop.split("{{ else ")
    )
    said = "".join(branches.get(m["role"], "").replace("{{ .Content }}", m["content"]) for m in messages)
    return (opening + said + answer).replace('{{ "{{" }}', "{{")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_go_template_writes_what_the_jinja_template_writes(tmp_path: Path, name: str) -> None:
    family = FAMILIES[name]
    template = build(family, tmp_path).template
    markup = markup_of(template)
    assert markup is not None
    go = go_template(markup)
    assert go is not None
    chats = [chat("one"), chat("one", "two", "three"), chat("one", "two", "three", "four", "five")]
    if family.takes_system:
        chats += [chat("one", system="be kind"), chat("one", "two", "three", system="be kind")]
    for turns in chats:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        assert render_go(go, messages) == template.render(messages, add_generation_prompt=True)
    assert markup.takes_system == family.takes_system
    assert markup.strips == bool(family.strips)


def test_a_token_that_the_runtime_puts_first_isnt_in_the_template(tmp_path: Path) -> None:
    markup = markup_of(ChatTemplate("{{ bos_token }}" + CHATML, {"bos_token": "<s>"}))
    assert markup is not None
    assert "<s>" in str(go_template(markup))
    assert "<s>" not in str(go_template(markup, "<s>"))


def test_markup_that_depends_on_the_place_gives_no_template() -> None:
    counted = CHATML.replace("'<|im_start|>' +", "'<|im_start|>' + loop.index|string +")
    assert markup_of(ChatTemplate(counted, {})) is None


@pytest.mark.parametrize("text", ['"""', "\u00a0", "\x07"])
def test_what_a_modelfile_cant_hold_gives_no_template(text: str) -> None:
    markup = markup_of(ChatTemplate(CHATML.replace("<|im_end|>", "<|im_end|>" + text), {}))
    assert markup is not None
    assert go_template(markup) is None


def test_braces_of_the_markup_stay_braces() -> None:
    template = ChatTemplate(CHATML.replace("<|im_end|>", "{{end}}"), {})
    markup = markup_of(template)
    assert markup is not None
    messages = [{"role": "user", "content": "x"}]
    assert render_go(str(go_template(markup)), messages) == template.render(messages, add_generation_prompt=True)


def test_the_modelfile_names_the_file_the_template_and_every_stop_token(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solotune.artifacts.model_dir import ModelDir

    monkeypatch.setattr(ollama, "automatic_bos", lambda _: "")
    text = modelfile(tmp_path / "small-q8_0.gguf", ChatEncoder.open(ModelDir(tiny_tokenizer)))
    assert text == (
        "# ollama create NAME -f Modelfile\n"
        "FROM ./small-q8_0.gguf\n"
        'TEMPLATE """{{ range .Messages }}'
        '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ end }}{{ end }}<|im_start|>assistant\n"""\n'
        'PARAMETER stop "<|im_end|>"\n'
    )
