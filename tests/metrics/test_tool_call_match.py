import json
from pathlib import Path

import pytest

from solotune.config.schema import EvaluationConfig
from solotune.metrics import AnswerMetric, asked

ARGUMENTS = {"room": "hall", "brightness": 40}
DEMO = Path(__file__).parents[2] / "data/raw/demo/commands.jsonl"


def match(prediction: str, reference: str, **options: object) -> float | None:
    (metric,) = asked(EvaluationConfig(metrics=({"tool_call_match": options},)))
    assert isinstance(metric, AnswerMetric)
    return metric.score(prediction, reference, "row")


def call(name: str = "set_light", **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments or ARGUMENTS}


REFERENCE = json.dumps(call())
SHAPES = {
    "name and arguments": REFERENCE,
    "arguments as text": json.dumps({"name": "set_light", "arguments": json.dumps(ARGUMENTS)}),
    "parameters": json.dumps({"name": "set_light", "parameters": ARGUMENTS}),
    "tool": json.dumps({"tool": "set_light", "arguments": ARGUMENTS}),
    "tool with parameters": json.dumps({"tool": "set_light", "parameters": ARGUMENTS}),
    "tool, arguments beside it": json.dumps({"tool": "set_light", **ARGUMENTS}),
    "function as the name": json.dumps({"function": "set_light", "arguments": ARGUMENTS}),
    "function": json.dumps({"type": "function", "id": "call_1", "function": call()}),
    "tool_calls": json.dumps({"role": "assistant", "content": None, "tool_calls": [{"function": call()}]}),
    "list": json.dumps([call()]),
    "list in an object": json.dumps({"steps": [{"tool": "set_light", **ARGUMENTS}]}),
    "tags": f"<tool_call>\n{REFERENCE}\n</tool_call>",
    "tags with text around": f"<think>Hm.</think>I'll do that.\n<tool_call>{REFERENCE}</tool_call>\nDone.",
    "an unclosed tag": f"<tool_call>\n{REFERENCE}",
    "spacing and key order": '{\n "arguments": {"brightness": 40.0, "room": "hall"},\n "name": "set_light"}',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_is_the_same_however_it_is_written(shape: str):
    assert match(SHAPES[shape], REFERENCE) == 1.0
    assert match(REFERENCE, SHAPES[shape]) == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        call("set_lamp"),
        call(room="hall"),
        call(room="hall", brightness=40, color="red"),
        call(room="hall", brightness="40"),
        call(room="Hall", brightness=40),
        call(room="hall", brightness=[40]),
        {"name": "set_light"},
        {"name": "set_light", "arguments": [ARGUMENTS]},
        {"name": "set_light", "arguments": "hall"},
        {"name": ["set_light"], "arguments": ARGUMENTS},
        [call(), call()],
        [call(), "and more"],
        [],
        {},
    ],
)
def test_another_name_other_arguments_and_more_or_fewer_calls_fail(wrong: object):
    assert match(json.dumps(wrong), REFERENCE) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "The light is on.",
        "",
        f"I call {REFERENCE}",
        f"```json\n{REFERENCE}\n```",
        REFERENCE[:-1],
        f"<tool_call>{REFERENCE}</tool_call><tool_call>oops</tool_call>",
        '{"name": "set_light", "name": "set_light", "arguments": {}}',
    ],
)
def test_text_that_is_no_call_fails_and_as_a_reference_has_no_score(text: str):
    assert match(text, REFERENCE) == 0.0
    assert match(REFERENCE, text) is None


def test_true_is_not_1_within_arguments():
    assert match(json.dumps(call(on=True)), json.dumps(call(on=1))) == 0.0


@pytest.mark.parametrize("nothing", ["{}", '""', "null", '"{}"'])
def test_no_arguments_may_be_written_in_several_ways(nothing: str):
    assert match(f'{{"name": "stop", "arguments": {nothing}}}', '{"tool": "stop"}') == 1.0


def test_an_argument_may_be_called_name():
    reference = '{"tool": "add_contact", "name": "Ada"}'
    assert match('{"name": "add_contact", "arguments": {"name": "Ada"}}', reference) == 1.0
    assert match('{"name": "add_contact", "arguments": {"name": "Bob"}}', reference) == 0.0


def test_several_calls_match_in_any_order_unless_order_is_asked_for():
    one, two = call("a", x=1), call("b", x=2)
    assert match(json.dumps([two, one]), json.dumps([one, two])) == 1.0
    assert match(json.dumps([two, one]), json.dumps([one, two]), ordered=True) == 0.0
    assert match(json.dumps([one, two]), json.dumps([one, two]), ordered=True) == 1.0


def test_a_call_that_is_made_twice_is_wanted_twice():
    one, two = call("a", x=1), call("b", x=2)
    assert match(json.dumps([one, one, two]), json.dumps([one, two, two])) == 0.0
    assert match(json.dumps([one]), json.dumps([one, one])) == 0.0


def test_tags_within_an_argument_are_text():
    reference = json.dumps(call("write", text="<tool_call>{}</tool_call>"))
    assert match(reference, reference) == 1.0


def test_every_answer_of_the_demo_is_read_as_calls():
    answers = [json.loads(line)["messages"][-1]["content"] for line in DEMO.read_text("utf-8").splitlines()]
    assert len(answers) > 1000
    for answer in answers:
        assert match(answer, answer) == 1.0
        assert match('{"tool":"none","reason":"tired"}', answer) == 0.0
