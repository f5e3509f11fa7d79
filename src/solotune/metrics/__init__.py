"""Task metrics: pure functions from a generated answer and its reference to a score.

A score lies in 0..1 and higher is better; None means that the metric does not apply to this row, and whoever
averages leaves the row out. To add a metric: one file, and its import and its line here.
"""

from collections.abc import Callable

from solotune.metrics.contains import contains
from solotune.metrics.exact_match import exact_match
from solotune.metrics.json_fields_f1 import json_fields_f1
from solotune.metrics.json_valid import json_valid
from solotune.metrics.numeric_answer import numeric_answer
from solotune.metrics.rouge_l import rouge_l
from solotune.metrics.token_f1 import token_f1

Metric = Callable[[str, str], float | None]

METRICS: dict[str, Metric] = {
    "contains": contains,
    "exact_match": exact_match,
    "json_fields_f1": json_fields_f1,
    "json_valid": json_valid,
    "numeric_answer": numeric_answer,
    "rouge_l": rouge_l,
    "token_f1": token_f1,
}
