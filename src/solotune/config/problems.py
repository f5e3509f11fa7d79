"""What pydantic found wrong, one line a key: where, what, what is allowed, what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from solotune.config import allowed
from solotune.config.allowed import Path
from solotune.config.yaml_marks import Marked, Problem, dotted, reads_as

# What other programs, or other versions of upstream, call one of our keys.
_CALLED_ELSEWHERE = {
    "lr": "training.learning_rate",
    "epochs": "training.num_train_epochs",
    "num_epochs": "training.num_train_epochs",
    "batch_size": "training.per_device_train_batch_size",
    "micro_batch_size": "training.per_device_train_batch_size",
    "max_seq_length": "training.max_length",
    "sequence_len": "training.max_length",
    "cutoff_len": "training.max_length",
    "gradient_checkpointing": "training.activation_checkpointing",
    "lr_scheduler": "training.lr_scheduler_type",
    "warmup_ratio": "training.warmup_steps",
    "optimizer": "training.optim",
    "rank": "lora.r",
    "lora_r": "lora.r",
    "alpha": "lora.lora_alpha",
    "dropout": "lora.lora_dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "base_model": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "torch_dtype": "model.dtype",
    "chat_template": "model.chat_template_path",
    "data_files": "dataset.raw_files",
}

_IS_NOT = {
    "int_type": "is not an integer",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "bool_type": "is neither true nor false",
    "string_type": "is not text",
    "string_unicode": "is not text",
    "tuple_type": "is not a list",
    "dict_type": "is not a mapping",
    "model_type": "is not a section",
    "literal_error": "is not a choice",
    "too_short": "is too short",
    "string_too_short": "is empty",
    "string_pattern_mismatch": "doesn't fit",
}


def explain(error: ValidationError, tree: Marked) -> Iterator[Problem]:
    """The problems behind a ValidationError of RunConfig, each at the line of its key.

    Args:
        error: what validating `tree.plain()` raised.
        tree: the merged config.
    """
    found: dict[Path, list[ErrorDetails]] = {}
    listed: set[Path] = set()  # sections whose keys a message has listed
    for details in error.errors(include_url=False):
        found.setdefault(_path(details, tree), []).append(details)
    for path, errors in found.items():
        # Each member of a union complains; the one that got furthest into the value says what is wrong.
        if not any(len(other) > len(path) and other[: len(path)] == path for other in found):
            yield from _problem(path, errors, tree, listed)


def nearest(path: Path, tree: Marked) -> Marked:
    """The value at `path`, or what comes nearest to it on the way there."""
    node = tree
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        node = child
    return node


def blanks(tree: Marked, path: Path = ()) -> Iterator[Problem]:
    """Keys with nothing behind the colon: YAML reads null; people mean "the default", "none" or "later"."""
    if isinstance(tree.value, dict):
        children: list[tuple[str | int, Marked]] = list(tree.value.items())
    else:
        children = list(enumerate(tree.value)) if isinstance(tree.value, list) else []
    for part, child in children:
        yield from blanks(child, (*path, part))
    if tree.is_blank and allowed.options(path):
        yield Problem(tree.place, f"{dotted(path)}: no value (allowed: {allowed.in_words(path)})")


def _path(details: ErrorDetails, tree: Marked) -> Path:
    """The keys that lead to the value; pydantic's `loc` has names of union members in between."""
    path: list[str | int] = []
    node = tree
    for part in details["loc"]:
        child = _child(node, part)
        if child is not None:
            path.append(part)
            node = child
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    return tuple(path)


def _child(node: Marked, part: str | int) -> Marked | None:
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _problem(path: Path, errors: list[ErrorDetails], tree: Marked, listed: set[Path]) -> Iterator[Problem]:
    node = nearest(path, tree)
    match errors[0]["type"]:
        case "missing":
            text = _missing(path)
        case "extra_forbidden":
            text = _unknown(path) + ("" if path[:-1] in listed else _known(path[:-1]))
            listed.add(path[:-1])
        case "value_error":
            text = str(errors[0]["ctx"]["error"])
            node = _named_in(text, node)
        case _ if node.is_blank:  # one of `blanks`
            return
        case _:
            text = _ill_typed(path, errors, node)
    yield Problem(node.place, f"{dotted(path)}: {text}" if path else text)


def _missing(path: Path) -> str:
    if needs := allowed.required(path):
        return f"required section is missing; it needs {', '.join(needs)}"
    return f"required key is missing: {allowed.description(path)}"


def _unknown(path: Path) -> str:
    *section, key = path
    meant = _meant(str(key), allowed.keys(tuple(section)))
    # A key of the same section is named without it.
    meant = [where.removeprefix(f"{dotted(section)}.") if section else where for where in meant]
    return "unknown key" + (f"; did you mean {' or '.join(meant)}?" if meant else "")


def _known(section: Path) -> str:
    return f" ({dotted(section) or 'a config'} knows: {', '.join(allowed.keys(section))})"


def _meant(key: str, known: list[str]) -> list[str]:
    """The keys that were probably meant: called otherwise elsewhere, put in another section, or misspelt."""
    everywhere = {dotted(path): str(path[-1]) for path in allowed.all_keys()}
    if key in _CALLED_ELSEWHERE:
        return [_CALLED_ELSEWHERE[key]]
    if same := [where for where, name in everywhere.items() if name == key]:
        return same
    if near := get_close_matches(key, known, 1):
        return near
    near = get_close_matches(key, everywhere.values(), 1, cutoff=0.8)
    return [where for where, name in everywhere.items() if name in near]


def _named_in(message: str, section: Marked) -> Marked:
    """The first key that a validator's message names, so that its line can be shown."""
    keys = section.value if isinstance(section.value, dict) else {}
    return next((keys[word] for word in re.findall(r"\w+", message) if word in keys), section)


def _ill_typed(path: Path, errors: list[ErrorDetails], node: Marked) -> str:
    kinds = [details["type"] for details in errors]
    value = node.value
    if "string_type" in kinds and isinstance(value, int | float):
        read_as = "a boolean" if isinstance(value, bool) else "a number"
        return f"{_short(node.text)} is read as {read_as}; quote it: '{_short(node.text)}'"
    is_not = _IS_NOT.get(kinds[0], "is out of range") if len(kinds) == 1 else "is not allowed"
    return f"{_shown(node)} {is_not} (allowed: {allowed.in_words(path)}){_hint(path, value)}"


def _hint(path: Path, value: object) -> str:
    if not isinstance(value, str):
        return ""
    if reads_as(value) in ("int", "float") and allowed.takes_numbers(path):
        return "; write it without quotes"
    near = get_close_matches(value.lower(), allowed.choices(path), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(node: Marked) -> str:
    if isinstance(node.value, dict | list):
        kind = "mapping" if isinstance(node.value, dict) else "list"
        return f"a {kind}" if node.value else f"an empty {kind}"
    return repr(_short(node.value)) if isinstance(node.value, str) else _short(node.text)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
