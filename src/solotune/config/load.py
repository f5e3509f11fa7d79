"""From YAML files and --set values to a RunConfig, or to every problem in them at once.

One rule composes them: `extends` names files; a later one wins over an earlier one, the file itself over
those, and --set over all. Sections are merged key by key; every other value is replaced whole, be it a list
or a mapping such as `dataset.columns`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError

from solotune.config import precision
from solotune.config.allowed import Path as KeyPath
from solotune.config.problems import blanks, explain, nearest
from solotune.config.schema import EvaluationConfig, RunConfig
from solotune.config.yaml_marks import Marked, Place, Problem, YamlError, dotted, dump, parse
from solotune.errors import ConfigError

_Keys = dict[str, Marked]
Check = Callable[[EvaluationConfig], Iterable[tuple[KeyPath, str]]]


def load(path: Path, overrides: Sequence[str] = (), check: Check | None = None) -> RunConfig:
    """Reads an experiment, or the `config.yaml` of a run.

    Args:
        path: the YAML file.
        overrides: `section.key=value`, the value in YAML; a later one wins.
        check: what the schema can't know about `evaluation`, whose metrics lie above it: problems, each with the keys
            that lead to it.

    Raises:
        ConfigError: every problem that was found, each on one line with its file and line.
    """
    problems: list[Problem] = []
    tree = _composed(path, overrides, problems)
    if tree is not None:
        problems.extend(blanks(tree))
        problems.extend(_checked(tree, check) if check else ())
        try:
            config = RunConfig.model_validate(tree.plain())
        except ValidationError as error:
            problems.extend(explain(error, tree))
        else:
            if not problems:
                return precision.chosen(config)
    raise ConfigError(_lines(problems))


def resolved_yaml(config: RunConfig) -> str:
    """Every key with its value, in the schema's order; `load` reads it back to an equal config."""
    return dump(config.model_dump(mode="json"))


def _checked(tree: Marked, check: Check) -> Iterable[Problem]:
    section = nearest(("evaluation",), tree)
    try:
        evaluation = EvaluationConfig.model_validate({} if section is tree else section.plain())
    except ValidationError:  # of those that validating the whole config finds
        return
    for path, text in check(evaluation):
        yield Problem(nearest(path, tree).place, f"{dotted(path)}: {text}")


def _composed(path: Path, overrides: Sequence[str], problems: list[Problem]) -> Marked | None:
    """The whole config as written; None where a file or an override can't be read."""
    keys = _layered(path, Place(_shown(path)), (), problems)
    for override in overrides:
        keys = _overridden(keys, override, problems)
    if keys is None:
        return None
    place = Place(_shown(path), 1)
    return Marked({"name": Marked(_default_name(path), place), **keys}, place)


def _default_name(path: Path) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", path.stem.lower()).lstrip("-_")[:48] or "run"


# Files


def _layered(path: Path, named_at: Place, chain: tuple[str, ...], problems: list[Problem]) -> _Keys | None:
    """The keys of a file over those of the files that it extends; None where one of them can't be read.

    Args:
        path: the file.
        named_at: where the file was asked for.
        chain: the files that led here, first to last.
        problems: takes what is wrong.
    """
    chain = (*chain, _shown(path))
    try:
        own = _own_keys(path, named_at, chain, problems)
    except YamlError as error:
        problems.append(error.problem)
        return None
    parents = _extended(own.pop("extends", None), problems)
    layers = [_layered(path.parent / name, place, chain, problems) for name, place in parents]
    merged: _Keys = {}
    for layer in [*layers, own]:
        if layer is None:
            return None
        merged = _merged(merged, layer)
    return merged


def _own_keys(path: Path, named_at: Place, chain: tuple[str, ...], problems: list[Problem]) -> _Keys:
    shown = chain[-1]
    asked = f"extends: {shown}: " if len(chain) > 1 else ""
    through = f" ({' -> '.join(chain)})" if len(chain) > 2 else ""
    if shown in chain[:-1]:
        raise YamlError(named_at, f"extends: a cycle: {' -> '.join(chain)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise YamlError(Place(shown, line), f"not UTF-8 ({byte}); save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise YamlError(named_at, f"{asked}{_unreadable(path, error)}{through}") from None
    root = parse(text, shown, problems)
    if root is not None and isinstance(root.value, dict):
        return dict(root.value)
    what = "empty" if root is None else "a list" if isinstance(root.value, list) else "a single value"
    place = Place(shown, root.place.line if root else 1, 1)
    raise YamlError(place, f"{what}; a config is a mapping such as `training: {{max_steps: 20}}`")


def _extended(extends: Marked | None, problems: list[Problem]) -> list[tuple[str, Place]]:
    """The names of the files to extend, each with its place."""
    if extends is None:
        return []
    items = extends.value if isinstance(extends.value, list) else [extends]
    names: list[tuple[str, Place]] = []
    for item in items:
        if isinstance(item.value, str) and item.value:
            names.append((item.value, item.place))
        else:
            problems.append(Problem(item.place, "extends: not a file name (allowed: a file, or a list of files)"))
    return names


def _merged(below: _Keys, above: _Keys) -> _Keys:
    """Both, `above` winning: sections key by key, every other value whole."""
    merged = dict(below)
    for key, entry in above.items():
        old = merged.get(key)
        if old is not None and isinstance(old.value, dict) and isinstance(entry.value, dict):
            merged[key] = replace(entry, value={**old.value, **entry.value})
        else:
            merged[key] = entry
    return merged


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        beside = {other.stem: other for other in path.parent.glob("*.y*ml")}
        # Without the ending, which makes any two short names alike.
        near = get_close_matches(path.name.removesuffix(".yaml").removesuffix(".yml"), beside, 1)
        return "no such file" + (f"; did you mean {_shown(beside[near[0]])}?" if near else "")
    if isinstance(error, IsADirectoryError):
        return "a folder, not a YAML file"
    return f"can't be read: {error.strerror if isinstance(error, OSError) else error}"


def _shown(path: Path) -> str:
    absolute = os.path.abspath(path)  # noqa: PTH100  (resolve() would show a link's target)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith("..") else relative


# --set


def _overridden(keys: _Keys | None, override: str, problems: list[Problem]) -> _Keys | None:
    """The keys with one --set value; an override that can't be read changes nothing and is a problem."""
    place = Place(f"--set {override}")
    key, equals, text = override.partition("=")
    words = key.split(".")
    if not equals or not all(words):
        problems.append(Problem(place, "expected section.key=value, such as --set training.max_steps=20"))
        return keys
    try:
        value = parse(text, place.source, problems, numbered=False)
    except YamlError as error:
        problems.append(error.problem)
        return keys
    if value is None:
        problems.append(Problem(place, f"{key}: no value; write null for none (--set {key}=null)"))
    elif words[0] == "extends":
        problems.append(Problem(place, "extends belongs in a file; --set changes single keys"))
    elif keys is not None:
        return _put(keys, words, value) if len(words) > 1 else _merged(keys, {key: value})
    return keys


def _put(keys: _Keys, words: Sequence[str], value: Marked) -> _Keys:
    """The keys with `value` at the path `words`; sections on the way keep their other keys."""
    first, *rest = words
    if rest:
        section = keys.get(first)
        inner = section.value if section and isinstance(section.value, dict) else {}
        place = section.place if section else value.place
        value = Marked(_put(inner, rest, value), place)
    return {**keys, first: value}


def _lines(problems: list[Problem]) -> list[str]:
    """One printable line for each problem, in the order of files and lines, --set last."""
    ordered = sorted(problems, key=lambda problem: (problem.place.line == 0, problem.place[:2]))
    lines = (f"{problem.place}: {problem.text}" for problem in ordered)
    printable = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
    return list(dict.fromkeys(printable))
