import pytest

from solotune.config.schema import EvaluationConfig
from solotune.errors import DataError
from solotune.metrics import ChoiceMetric, asked


def metric(**options: object) -> ChoiceMetric:
    (found,) = asked(EvaluationConfig(metrics=({"choice_accuracy": options},)))
    assert isinstance(found, ChoiceMetric)
    return found


def rows(*references: str) -> list[tuple[str, str]]:
    return [(f"row-{i}", reference) for i, reference in enumerate(references)]


def test_the_likeliest_choice_is_chosen():
    choices = metric(choices=["yes", "no", "maybe"])
    assert choices.choose(["yes", "no", "maybe"], [2.0, 0.5, 3.0], [2, 2, 2]) == 1


def test_of_equally_likely_choices_the_first_is_chosen():
    assert metric().choose(["a", "b", "c"], [2.0, 1.0, 1.0], [2, 2, 2]) == 1


def test_normalised_by_token_a_long_choice_may_win():
    choices, nll, tokens = ["no", "it is not clear"], [1.2, 2.0], [2, 5]
    assert metric(normalise="sum").choose(choices, nll, tokens) == 0
    assert metric(normalise="token").choose(choices, nll, tokens) == 1


def test_normalised_by_character_tokens_do_not_count():
    choices, nll = ["antidisestablishmentarianism", "no way out"], [2.8, 1.1]
    for tokens in ([2, 4], [9, 4]):
        assert metric(normalise="character").choose(choices, nll, tokens) == 0


@pytest.mark.parametrize("seed", range(20))
def test_choices_are_those_of_lm_evaluation_harness(seed: int):
    """Its `process_results` of a multiple_choice task: argmax of log-likelihoods, as they are and by characters."""
    np = pytest.importorskip("numpy")
    random = np.random.default_rng(seed)
    choices = ["x" * int(n) for n in random.integers(1, 30, 5)]
    lls = -random.exponential(3.0, 5)
    lengths = np.array([float(len(choice)) for choice in choices])
    assert metric(normalise="sum").choose(choices, list(-lls), [1] * 5) == np.argmax(lls)
    assert metric(normalise="character").choose(choices, list(-lls), [1] * 5) == np.argmax(lls / lengths)


def test_without_choices_these_are_the_distinct_references_in_an_order_that_rows_do_not_decide():
    assert metric().choices_of(rows("b", "a", "b ", "c")) == ("a", "b", "c")
    assert metric().choices_of(rows("c", "b ", "b", "a")) == ("a", "b", "c")


def test_whitespace_at_the_ends_does_not_make_an_answer_wrong():
    assert metric().score("yes", "yes\n") == 1.0
    assert metric().score("yes", "Yes") == 0.0


def test_more_references_than_can_be_scored_are_refused():
    assert len(metric().choices_of(rows(*map(str, range(64))))) == 64
    with pytest.raises(DataError, match=r"choice_accuracy: .* 65 different answers, .* Name the metric's `choices`"):
        metric().choices_of(rows(*map(str, range(65))))


def test_references_that_are_all_the_same_are_refused_because_any_model_would_be_right():
    with pytest.raises(DataError, match="nothing to choose from"):
        metric().choices_of(rows("yes", "yes"))


def test_a_reference_that_is_no_choice_is_refused_with_its_row():
    asked_for = metric(choices=["yes", "no"], label="is_it")
    assert asked_for.choices_of(rows("yes", "yes")) == ("yes", "no")
    with pytest.raises(DataError, match="is_it: the answer of row 'row-1' is none of the choices: 'Yes'"):
        asked_for.choices_of(rows("no", "Yes"))


def test_the_words_say_what_was_chosen_from():
    assert metric(choices=["yes", "no"]).words == "choices: 'yes', 'no'; normalise: sum"
    assert metric(normalise="token").words == "choices: the references; normalise: token"
