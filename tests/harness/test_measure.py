from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.harness.conftest import make_row

from solotune.config.schema import EvaluationConfig
from solotune.dataset.contract import Row
from solotune.errors import DataError, ModelError
from solotune.harness.held_out import HeldOut
from solotune.harness.measure import Generated, measure
from solotune.metrics import asked
from solotune.modeling.chat import IGNORE, Encoded
from solotune.modeling.generate import Said
from solotune.modeling.likelihood import RowScore
from solotune.modeling.subject import TorchSubject


class Spoken:
    """A subject that gives the answers that it was told to, and finds each label as likely as the next."""

    def __init__(self, answers: dict[int, str] | None = None, nll: float = 0.5, cut: Sequence[int] = ()) -> None:
        self.answers, self.nll, self.cut = answers or {}, nll, cut
        self.asked: list[list[int]] = []

    def score(self, rows: Sequence[Encoded], on_rows: Callable[[int], None] = lambda _: None) -> list[RowScore]:
        counts = [sum(label != IGNORE for label in row.labels[1:]) for row in rows]
        return [RowScore(n * self.nll, n, np.full(n, self.nll, np.float32), np.zeros(n, np.int32)) for n in counts]

    def answer(self, prompts: Sequence[list[int]], on_rows: Callable[[int], None] = lambda _: None) -> list[Said]:
        self.asked += prompts
        return [Said(self.answers[i], i in self.cut) for i in range(len(prompts))]

    def log_probabilities(self, rows: Sequence[Encoded]) -> Iterator[torch.Tensor]:
        raise AssertionError


def config(**keys: Any) -> EvaluationConfig:
    return EvaluationConfig.model_validate(keys)


@pytest.fixture
def three(held_out_of: Callable[[list[Row]], HeldOut]) -> HeldOut:
    return held_out_of(
        [
            make_row(0, "even?", "yes", tags=["choice"]),
            make_row(1, "say it", "hello there"),
            make_row(2, "odd?", "no", tags=["choice", "short"]),
        ]
    )


def test_an_answer_is_generated_once_whatever_metrics_look_at_it(three: HeldOut) -> None:
    subject = Spoken({0: "yes", 1: "hello", 2: "yes"})
    found = measure("model", subject, three, asked(config(metrics=["exact_match", "contains", "token_f1"])))
    assert subject.asked == [three.prompt(i) for i in range(3)]
    assert found.answers == ["yes", "hello", "yes"]
    assert found.values["exact_match"] == [1.0, 0.0, 0.0]
    assert found.values["contains"] == [1.0, 0.0, 0.0]
    assert found.values["token_f1"] == [1.0, pytest.approx(2 / 3), 0.0]


def test_metrics_by_tag_are_asked_of_their_rows_alone(three: HeldOut) -> None:
    subject = Spoken({0: "no"})
    metrics = asked(config(metrics=[], metrics_by_tag={"short": ["exact_match"]}))
    found = measure("model", subject, three, metrics)
    assert subject.asked == [three.prompt(2)]
    assert found.values == {"exact_match": [None, None, 1.0]}
    assert found.answers == ["", "", "no"]


def test_the_likeliest_choice_is_that_of_the_model(
    three: HeldOut, held_out: HeldOut, subject_of: Callable[..., TorchSubject]
) -> None:
    subject = subject_of()
    metrics = asked(config(metrics=[], metrics_by_tag={"choice": ["choice_accuracy"]}))
    found = measure("model", subject, three, metrics)
    for i in (0, 2):
        nll = {choice: subject.score(three.answered_with(i, [choice]))[0].nll for choice in ("yes", "no")}
        assert found.choices[i] == min(nll, key=lambda choice: nll[choice])
        assert found.values["choice_accuracy"][i] == float(found.choices[i] == three.reference(i))
    assert found.choices[1] is None
    assert found.values["choice_accuracy"][1] is None
    assert found.answers == ["", "", ""]


def test_the_template_s_own_markup_is_no_part_of_an_answer(three: HeldOut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(three.encoder, "content_of", lambda answer, roles: answer.removeprefix("<think></think>"))
    subject = Spoken({0: "<think></think>yes", 1: "x", 2: "no"})
    assert measure("model", subject, three, asked(config())).values["exact_match"] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("nll", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told_with_the_first_row(three: HeldOut, nll: float) -> None:
    with pytest.raises(ModelError, match=r"model: the loss isn't a number on 3 rows of test \(the first: row-0\)"):
        measure("model", Spoken(nll=nll), three, [])


def test_references_that_arent_among_the_choices_are_refused(three: HeldOut) -> None:
    metrics = asked(config(metrics=[{"choice_accuracy": {"choices": ["yes", "no"]}}]))
    with pytest.raises(DataError, match="the answer of row 'row-1' is none of the choices"):
        measure("model", Spoken(), three, metrics)


def test_answers_that_were_cut_and_thoughts_are_kept_apart(three: HeldOut) -> None:
    said = {0: "<think>is it?</think>\n\nyes", 1: "<think>hello, I", 2: "no"}
    found = measure("model", Spoken(said, cut=[1]), three, asked(config()))
    assert found.answers == ["yes", "<think>hello, I", "no"]
    assert found.values["exact_match"] == [1.0, 0.0, 1.0]
    assert found.generated == [
        Generated(False, "<think>is it?</think>", False),
        Generated(True, "", True),
        Generated(False, "", False),
    ]


def test_some_rows_alone_are_measured_with_the_choices_of_all(
    three: HeldOut, subject_of: Callable[..., TorchSubject]
) -> None:
    metrics = asked(config(metrics=[], metrics_by_tag={"choice": ["choice_accuracy"]}))
    whole, some = (measure("model", subject_of(), three, metrics, rows) for rows in (None, [2]))
    assert some.choices == whole.choices[2:], "the only reference among these rows would be no choice"
    assert some.scores[0].nll == pytest.approx(whole.scores[2].nll, rel=1e-5)
    assert some.rows == [2]
    assert (len(some.scores), len(some.answers), len(some.generated)) == (1, 1, 1)
