"""The table of metrics, and what holds for each of them."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import solotune.metrics
from solotune.config.schema import EvaluationConfig
from solotune.metrics import METRICS, AnswerMetric, asked
from tests.helpers import no_torch_after

JSON_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=10,
)
