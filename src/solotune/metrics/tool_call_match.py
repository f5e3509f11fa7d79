"""Whether the prediction calls the tools that the reference calls, with the same arguments.

Range: 0 or 1, higher is better: all calls, no other ones, each with its name and all its arguments. None where the
reference calls nothing.
A call is written as
    {"name": N, "arguments": A}, also "parameters" for "arguments", "tool" or "function" for "name"
    {"function": {"name": N, "arguments": A}}, with or without "type" and "id"
    {"tool": N, …}, what stands beside it being the arguments
and A is an object or a text that holds one. Several calls are a list, {"tool_calls": [C, …]} whatever else that object
holds, or a list that is all an object holds ({"steps": [C, …]}). The whole text is that JSON (as `json_valid` has it),
or each call stands in <tool_call>…</tool_call>, other text around; the last closing tag may be missing. Prediction
and reference may be written in different ways.
Normalisation: arguments agree as in `json_fields_f1`: key order and spacing do not matter, 40 is 40.0, "40" is not 40,
the order of a list counts. The order of calls doesn't, unless `ordered: true`.
Reference: the AST match of the Berkeley Function-Calling Leaderboard (`parallel_function_checker_no_order` in
bfcl_eval/eval_checker/ast_eval/ast_checker.py of ShishirPatil/gorilla), which also forgives case, spaces and
punctuation in texts, and knows several right answers; this doesn't. The tags as vLLM's parser `hermes` reads them.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from solotune.metrics.json_fields_f1 import Leaf, leaves
from solotune.metrics.json_valid import parse_json
from solotune.metrics.kinds import AnswerOptions, Scorer

Call = tuple[str, frozenset[Leaf]]
"""Name, and what its arguments say."""

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


class ToolCallMatch(AnswerOptions):
    ordered: bool = False
    """Whether several calls must come in the reference's order."""

    def scorer(self) -> Scorer:
        def tool_call_match(prediction: str, reference: str) -> float | None:
            expected = calls(reference)
            if not expected:
                return None
            predicted = calls(prediction)
            return float(predicted == expected if self.ordered else Counter(predicted) == Counter(expected))

        return Scorer(tool_call_match, "in order" if self.ordered else "in any order")


def calls(text: str) -> list[Call]:
    """The calls that the text makes; none where a part of it that should be a call isn't one."""
    document = parse_json(text)
    documents = _listed(document) if document is not None else [parse_json(inner) for inner in _TAGGED.findall(text)]
    found = [_call(document) for document in documents]
    return [call for call in found if call is not None] if None not in found else []


def _listed(document: dict[str, Any] | list[Any]) -> list[Any]:
    """The items of which each should be a call."""
    if isinstance(document, list):
        return document
    inner = document.get("tool_calls") or (next(iter(document.values())) if len(document) == 1 else None)
    return inner if isinstance(inner, list) else [document]


def _call(item: Any) -> Call | None:
    if not isinstance(item, dict):
        return None
    if isinstance(item.get("function"), dict):
        item = item["function"]
    name = next((item[key] for key in ("tool", "name", "function") if isinstance(item.get(key), str)), None)
    if key := next((key for key in ("arguments", "parameters") if key in item), None):
        arguments = {} if item[key] in (None, "") else item[key]
    elif "tool" in item:
        arguments = {key: value for key, value in item.items() if key != "tool"}
    else:
        return None
    if isinstance(arguments, str):
        arguments = parse_json(arguments)
    return (name, leaves(arguments)) if name is not None and isinstance(arguments, dict) else None
