"""Task metrics: pure functions from a generated answer and its reference to a score, or choices by likelihood.

A score lies in 0..1 and higher is better; None means that the metric does not apply to this row, and whoever
averages leaves the row out. `asked` gives what a config asks for. To add a metric: one file, and its import and its
line in `table.py`.
"""

from solotune.metrics.asked import AnswerMetric, Asked, ChoiceMetric, asked, problems, unused_tags
from solotune.metrics.kinds import Score
from solotune.metrics.table import METRICS

__all__ = ["METRICS", "AnswerMetric", "Asked", "ChoiceMetric", "Score", "asked", "problems", "unused_tags"]
