"""The metrics by name. To add one: one file, and its import and its line here."""

from __future__ import annotations

from solotune.metrics.bleu import Bleu
from solotune.metrics.choice_accuracy import ChoiceAccuracy
from solotune.metrics.chrf import Chrf
from solotune.metrics.contains import contains
from solotune.metrics.exact_match import exact_match
from solotune.metrics.json_fields_f1 import json_fields_f1
from solotune.metrics.json_schema_valid import JsonSchemaValid
from solotune.metrics.json_valid import json_valid
from solotune.metrics.kinds import AnswerOptions, Score
from solotune.metrics.numeric_answer import numeric_answer
from solotune.metrics.python import Python
from solotune.metrics.regex import Regex
from solotune.metrics.rouge_l import rouge_l
from solotune.metrics.token_f1 import token_f1
from solotune.metrics.tool_call_match import ToolCallMatch

METRICS: dict[str, Score | type[AnswerOptions | ChoiceAccuracy]] = {
    "bleu": Bleu,
    "choice_accuracy": ChoiceAccuracy,
    "chrf": Chrf,
    "contains": contains,
    "exact_match": exact_match,
    "json_fields_f1": json_fields_f1,
    "json_schema_valid": JsonSchemaValid,
    "json_valid": json_valid,
    "numeric_answer": numeric_answer,
    "python": Python,
    "regex": Regex,
    "rouge_l": rouge_l,
    "token_f1": token_f1,
    "tool_call_match": ToolCallMatch,
}
