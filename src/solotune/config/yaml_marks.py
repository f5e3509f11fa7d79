"""YAML text as values that remember the line they were written on.

Scalars are those of the YAML 1.2 core schema: `2e-4` is a number; `off`, `no` and `2026-01-01` are text.
PyYAML's own loaders follow YAML 1.1, where the first is text and the others are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

Scalar = str | int | float | bool | None

_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    # Python refuses to read integers above some length; no key takes such a number, so it stays text.
    "int": re.compile(r"(?:[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300})\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_MAX_DEPTH, _MAX_VALUES = 20, 10_000  # far above any config; aliases of aliases grow without bound


class Place(NamedTuple):
    """Where something was written; line and column count from 1, 0 is none."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return ":".join([self.source, *(str(n) for n in (self.line, self.column) if n)])


class Problem(NamedTuple):
    """One thing that is wrong, and where."""

    place: Place
    text: str


@dataclass(frozen=True)
class Marked:
    """A value and its place: of the key in a mapping, of the item in a list."""

    value: Scalar | list[Marked] | dict[str, Marked]
    place: Place
    text: str = ""  # a scalar as it was written, without quotes

    @property
    def is_blank(self) -> bool:
        """Whether nothing was written, not even `null`."""
        return self.value is None and not self.text

    def plain(self) -> object:
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


class YamlError(Exception):
    """The text as a whole makes no sense; there is no value to go on with."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(place, text)


def parse(text: str, source: str, problems: list[Problem], *, numbered: bool = True) -> Marked | None:
    """Reads one YAML document; None is an empty one.

    Args:
        text: the document.
        source: the file (or the --set argument) that places name.
        problems: takes what is wrong with single keys.
        numbered: whether places carry line numbers.

    Raises:
        YamlError: the text isn't YAML, or nothing that a config can hold.
    """
    marker = _Marker(source, problems, numbered)
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None or _is_empty(root):
            return None
        return marker.marked(root, marker.place(root.start_mark))
    except yaml.MarkedYAMLError as error:
        raise YamlError(marker.place(error.problem_mark, column=True), _syntax(error, numbered)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        column = error.position - text.rfind("\n", 0, error.position)
        place = Place(source, line + 1, column) if numbered else Place(source)
        raise YamlError(place, f"not valid YAML: control character {error.character:#04x}") from None
    except (ValueError, OverflowError):  # PyYAML hands an escape beyond Unicode to chr()
        mark = loader.get_mark() if loader else None
        raise YamlError(marker.place(mark), 'not valid YAML: an escape in "..." that is no character') from None
    except RecursionError:
        raise YamlError(Place(source), "nested too deeply") from None


def dotted(path: Sequence[str | int]) -> str:
    """`("evaluation", "metrics", 1)` as `evaluation.metrics[1]`."""
    return ".".join(f"[{part}]" if isinstance(part, int) else part for part in path).replace(".[", "[")


def reads_as(text: str) -> str:
    """What unquoted text is in YAML 1.2: null, bool, int, float or str."""
    return next((kind for kind, pattern in _CORE.items() if pattern.match(text)), "str")


def dump(values: Mapping[str, object]) -> str:
    """Block-style YAML in the order of `values`, which `parse` and any YAML 1.1 reader read back alike."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own, of YAML 1.1, are not inherited)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise _TagError(None, None, f"a tag ({event.tag}) has no place in a config", event.start_mark)
        return super().compose_node(parent, index)


class _TagError(yaml.MarkedYAMLError):
    pass


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would take for something else."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # In its other styles PyYAML writes a few control characters so that it reads back others.
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)

for _kind, _pattern in _CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, _pattern, None)


class _Marker:
    """Turns PyYAML's nodes into Marked values."""

    def __init__(self, source: str, problems: list[Problem], numbered: bool) -> None:
        self._source, self._problems, self._numbered = source, problems, numbered
        self._values = 0

    def place(self, mark: yaml.Mark | None, *, column: bool = False) -> Place:
        if mark is None or not self._numbered:
            return Place(self._source)
        return Place(self._source, mark.line + 1, mark.column + 1 if column else 0)

    def marked(self, node: yaml.Node, place: Place, path: tuple[str | int, ...] = ()) -> Marked:
        self._values += 1
        if len(path) > _MAX_DEPTH or self._values > _MAX_VALUES:
            raise YamlError(self.place(node.start_mark), "nested too deeply, or an alias that holds itself")
        if isinstance(node, yaml.MappingNode):
            return Marked(self._mapping(node, path), place)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return Marked([self.marked(n, self.place(n.start_mark), (*path, i)) for i, n in items], place)
        return Marked(_scalar(node), place, node.value)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, Marked]:
        mapping: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(place, path, "a key is a word, not a list or a mapping")
                continue
            key = key_node.value
            if key in mapping:
                before = f", first on line {mapping[key].place.line}" if self._numbered else ""
                self._problem(place, (*path, key), f"written twice in one mapping{before}")
            mapping[key] = self.marked(value_node, place, (*path, key))
        return mapping

    def _problem(self, place: Place, path: tuple[str | int, ...], text: str) -> None:
        self._problems.append(Problem(place, f"{dotted(path)}: {text}" if path else text))


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


def _scalar(node: yaml.Node) -> Scalar:
    text = str(node.value)
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _syntax(error: yaml.MarkedYAMLError, numbered: bool) -> str:
    if isinstance(error, _TagError):
        return str(error.problem)
    problem = error.problem or "unreadable"
    if "'\\t'" in problem:
        return "a tab where only spaces may stand: indent with spaces"
    hint = "; quote a text that holds ': '" if problem == "mapping values are not allowed here" else ""
    context = ""
    if error.context:
        line = f" (line {error.context_mark.line + 1})" if error.context_mark and numbered else ""
        context = f"{error.context}{line}, "
    return f"not valid YAML: {context}{problem}{hint}"
