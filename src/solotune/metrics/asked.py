"""From the config's `evaluation.metrics` and `metrics_by_tag` to what is measured, or to every problem in them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import ValidationError

from solotune.config.schema import EvaluationConfig
from solotune.config.yaml_marks import dotted
from solotune.errors import ConfigError, SolotuneError
from solotune.metrics.choice_accuracy import ChoiceAccuracy, is_right
from solotune.metrics.kinds import AnswerOptions, BadOption, Options, Score
from solotune.metrics.table import METRICS

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Asked:
    """A metric, and the rows that it is asked of."""

    label: str
    """What its results are called; no two have the same."""
    words: str
    """Its options in words; empty: it has none."""
    tags: tuple[str, ...] | None
    """It is asked of rows with one of these tags; None: of all."""

    def applies_to(self, tags: Iterable[str]) -> bool:
        return self.tags is None or not set(self.tags).isdisjoint(tags)


@dataclass(frozen=True)
class AnswerMetric(Asked):
    """A metric of generated answers."""

    function: Score

    def score(self, prediction: str, reference: str, row_id: str) -> float | None:
        """0..1, higher is better; None: the metric doesn't apply to the row.

        Raises:
            SolotuneError: the user's pattern or function can't score the row.
        """
        try:
            value = self.function(prediction, reference)
        except SolotuneError as error:
            raise SolotuneError(f"{self.label}: row {row_id!r}: {error.what}", error.fix) from error
        assert value is None or 0.0 <= value <= 1.0, (self.label, value)
        return value


@dataclass(frozen=True)
class ChoiceMetric(Asked):
    """A metric of how likely given answers are; nothing is generated for it."""

    options: ChoiceAccuracy

    def choices_of(self, rows: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """The choices, given (id, reference) of each row that it applies to.

        Raises:
            DataError: a reference is no choice, or the references are too many to choose from.
        """
        return self.options.choices_of(self.label, rows)

    def choose(self, choices: Sequence[str], nll: Sequence[float], tokens: Sequence[int]) -> int:
        """The index of the likeliest choice.

        Args:
            choices: as `choices_of` gave them.
            nll: of each choice as the assistant's whole answer, summed over its tokens and the one that ends the
                turn, nats.
            tokens: how many these are.
        """
        return self.options.choose(choices, nll, tokens)

    def score(self, choice: str, reference: str) -> float:
        """1 where the chosen one is the reference, else 0."""
        return is_right(choice, reference)


def asked(evaluation: EvaluationConfig) -> list[AnswerMetric | ChoiceMetric]:
    """What is to be measured, in the order of METRICS; a metric that is asked of several tags is there once.

    Raises:
        ConfigError: every problem in the metrics and in what their options name.
    """
    found, wrong = _read(evaluation, files=True)
    if wrong:
        raise ConfigError([f"{dotted(path)}: {text}" for path, text in wrong])
    return found


def problems(evaluation: EvaluationConfig, *, files: bool = True) -> list[tuple[Path, str]]:
    """What is wrong with the metrics, each with the keys that lead to it.

    Args:
        evaluation: the section.
        files: whether the files that options name are read too; `fetch`, which has a network, sees none of them.
    """
    return _read(evaluation, files=files)[1]


def unused_tags(metrics: Iterable[Asked], tags: Iterable[str]) -> list[str]:
    """Tags of `metrics_by_tag` that none of the rows carries, whose tags are given: nothing is measured for them."""
    carried = set(tags)
    return sorted({tag for metric in metrics for tag in metric.tags or () if tag not in carried})


class _Entry(NamedTuple):
    path: Path
    tag: str | None
    name: str
    options: Options


def _read(
    evaluation: EvaluationConfig, *, files: bool
) -> tuple[list[AnswerMetric | ChoiceMetric], list[tuple[Path, str]]]:
    wrong: list[tuple[Path, str]] = []
    by_label: dict[str, tuple[_Entry, AnswerMetric | ChoiceMetric]] = {}
    for entry in _entries(evaluation, wrong):
        label = entry.options.label or entry.name
        tags = None if entry.tag is None else (entry.tag,)
        if label not in by_label:
            try:
                by_label[label] = entry, _built(entry, label, tags, files)
            except BadOption as error:
                wrong.append(((*entry.path, entry.name, error.option), str(error)))
            continue
        first, metric = by_label[label]
        if (first.name, first.options) != (entry.name, entry.options):
            text = f"two metrics are called {label!r}; call one otherwise, as in {{{entry.name}: {{label: NAME}}}}"
            wrong.append((entry.path, text))
        elif metric.tags is not None:
            both = None if tags is None else tuple(dict.fromkeys((*metric.tags, *tags)))
            by_label[label] = first, replace(metric, tags=both)
    place = list(METRICS).index
    return [metric for _, metric in sorted(by_label.values(), key=lambda found: place(found[0].name))], wrong


def _entries(evaluation: EvaluationConfig, wrong: list[tuple[Path, str]]) -> Iterator[_Entry]:
    """The entries that make sense, in the config's order; `wrong` takes what the others lack."""
    lists: list[tuple[Path, str | None, Sequence[str | dict[str, Any]]]] = [
        (("evaluation", "metrics"), None, evaluation.metrics),
        *((("evaluation", "metrics_by_tag", tag), tag, entries) for tag, entries in evaluation.metrics_by_tag.items()),
    ]
    for path, tag, entries in lists:
        for i, entry in enumerate(entries):
            at: Path = (*path, i)
            if isinstance(entry, dict) and len(entry) != 1:
                wrong.append((at, "a metric with options is a mapping with one key: {NAME: {OPTION: VALUE}}"))
                continue
            name, values = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
            if name not in METRICS:
                wrong.append((at, _no_such_metric(name)))
            elif not isinstance(values, dict):
                wrong.append((at, f"the options of {name} are a mapping: {{{name}: {{OPTION: VALUE}}}}"))
            else:
                try:
                    yield _Entry(at, tag, name, _options(name).model_validate(values))
                except ValidationError as error:
                    inner = at if isinstance(entry, str) else (*at, name)
                    wrong.extend((inner + where, text) for where, text in _explained(error, name))


def _built(entry: _Entry, label: str, tags: tuple[str, ...] | None, files: bool) -> AnswerMetric | ChoiceMetric:
    if isinstance(entry.options, ChoiceAccuracy):
        return ChoiceMetric(label, entry.options.words(), tags, entry.options)
    if isinstance(entry.options, AnswerOptions):
        score, words = entry.options.scorer() if files else (_unread, "")
        return AnswerMetric(label, words, tags, score)
    function = METRICS[entry.name]
    assert not isinstance(function, type)
    return AnswerMetric(label, "", tags, function)


def _unread(prediction: str, reference: str) -> float | None:
    raise AssertionError("only looked at, never asked")


def _options(name: str) -> type[Options]:
    metric = METRICS[name]
    return metric if isinstance(metric, type) else Options


# What is wrong, in words

_IS_NOT = {
    "string_type": "is not text; a number is, in quotes",
    "dict_type": "is not a mapping",
    "tuple_type": "is not a list",
    "bool_type": "is neither true nor false",
    "too_short": "is too short",
    "too_long": "is too long",
    "string_too_short": "is empty",
}


def _no_such_metric(name: str) -> str:
    near = get_close_matches(name, METRICS, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"there is no metric {name!r}{meant} (there are: {', '.join(METRICS)})"


def _explained(error: ValidationError, name: str) -> Iterator[tuple[Path, str]]:
    """One line an option; each member of a union complains by itself."""
    fields = {field.alias or key: field for key, field in _options(name).model_fields.items()}
    fields["label"] = fields.pop("label")  # behind the metric's own
    said: dict[str, list[str]] = {}
    for details in error.errors(include_url=False):
        option = str(details["loc"][0]) if details["loc"] else ""
        match details["type"]:
            case "extra_forbidden":
                near = get_close_matches(option, fields, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                text = f"{name} has no option {option!r}{meant} (it has: {', '.join(fields)})"
            case "missing":
                text = f"{name} needs the option {option!r}: {inspect.cleandoc(fields[option].description or '')}"
                option = ""
            case "value_error":
                text = str(details["ctx"]["error"])
            case "literal_error":
                text = f"{details['input']!r} is not a choice (allowed: {details['ctx']['expected']})"
            case kind:
                text = f"{_short(repr(details['input']))} {_IS_NOT.get(kind) or 'is not allowed: ' + details['msg']}"
        said.setdefault(option, []).append(text)
    for option, texts in said.items():
        yield (option,) if option else (), "; ".join(dict.fromkeys(" ".join(text.split()) for text in texts))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
