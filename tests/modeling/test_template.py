from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import CHATML

from solotune.errors import ModelError
from solotune.modeling.template import ChatTemplate, Slot

TRIMMING = (
    "{% for m in messages %}{{ '<s>' + m.role + ':' + (m.content | trim) + '<e>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant:' }}{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "<e>"})


def test_a_template_is_taken_apart_into_markup_and_slots() -> None:
    pieces = template(CHATML).pieces(("user", "assistant"))
    assert [(p.text, p.is_reply) for p in pieces] == [
        ("<|im_start|>user\n", False),
        (Slot(0), False),
        ("<|im_end|>\n<|im_start|>assistant\n", False),
        (Slot(1), True),
        ("<|im_end|>\n", False),
    ]


def test_what_follows_the_generation_prompt_belongs_to_the_reply() -> None:
    thinking = CHATML.replace(
        "message['role'] + '\n' +",
        "message['role'] + '\n' + ('<think></think>' if message['role'] == 'assistant' else '') +",
    )
    pieces = template(thinking).pieces(("user", "assistant"))
    assert ("<think></think>", True) in [(p.text, p.is_reply) for p in pieces]


def test_trimming_is_noticed_by_turn() -> None:
    pieces = template(TRIMMING.replace("(m.content | trim)", "(m.content | trim if m.role == 'user' else m.content)"))
    slots = [p.text for p in pieces.pieces(("user", "assistant")) if isinstance(p.text, Slot)]
    assert slots == [Slot(0, None, None), Slot(1)]
    assert slots[0].fill(" x \n") == "x"
    assert slots[1].fill(" x \n") == " x \n"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "{% for m in messages if m.role != 'user' %}{{ m.content }}<e>{% endfor %}",
            "user turn .* dropped or moved",
        ),
        ("{% for m in messages %}{{ m.content ~ m.content }}<e>{% endfor %}", "repeated"),
        ("{% for m in messages | reverse %}{{ m.content }}<e>{% endfor %}", "dropped or moved"),
        (CHATML.replace("<|im_start|>assistant\n", "<|im_start|>model\n"), "generation prompt isn't how"),
    ],
)
def test_a_template_that_cant_be_masked_exactly_is_refused_with_the_reason(source: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        template(source).pieces(("user", "assistant"))


def test_a_template_may_refuse_an_order_of_turns() -> None:
    source = "{{ raise_exception('no system turn here') }}"
    with pytest.raises(ModelError, match="no system turn here"):
        template(source).pieces(("system", "user"))


def test_bad_jinja_is_one_clear_error() -> None:
    with pytest.raises(ModelError, match="isn't valid Jinja"):
        template("{% for %}")


def test_templates_run_in_a_sandbox() -> None:
    with pytest.raises(ModelError, match="refuses a chat"):
        template("{{ messages.__class__.__mro__[1].__subclasses__() }}").render([{"role": "user", "content": "x"}])


def test_generation_markers_are_let_through() -> None:
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert template(marked).render([{"role": "user", "content": "x"}]) == "x"


@pytest.mark.parametrize(
    "name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "llama3_1", "gemma3", "phi3", "cohere2", "glm4moe"]
)
def test_templates_of_well_known_models_can_be_taken_apart(name: str) -> None:
    """Those that TRL ships; contents keep their order, and each assistant turn begins where its prompt ends."""
    import importlib.resources

    source = importlib.resources.files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")
    for roles in (("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant")):
        pieces = template(source).pieces(roles)
        slots = [(p.text.message, p.is_reply) for p in pieces if isinstance(p.text, Slot)]
        assert slots == [(i, role == "assistant") for i, role in enumerate(roles)]


def test_the_template_that_ships_for_mistral_keeps_system_turns() -> None:
    from solotune.modeling.template import Piece

    root = Path(__file__).parent.parent.parent
    source = (root / "configs" / "templates" / "mistral.jinja").read_text(encoding="utf-8")
    pieces = template(source).pieces(("system", "user", "assistant", "user", "assistant"))
    assert pieces == (
        Piece("<s>[INST] ", False),
        Piece(Slot(0), False),
        Piece("\n\n", False),
        Piece(Slot(1), False),
        Piece("[/INST]", False),
        Piece(" ", True),
        Piece(Slot(2), True),
        Piece("<e>[INST] ", False),
        Piece(Slot(3), False),
        Piece("[/INST]", False),
        Piece(" ", True),
        Piece(Slot(4), True),
        Piece("<e>", False),
    )
