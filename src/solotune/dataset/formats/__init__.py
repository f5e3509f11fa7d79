"""From a record to a row. A raw layout is one file here, an import and a line in FORMATS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import UNSET

from solotune.config.schema import DatasetConfig
from solotune.dataset import contract
from solotune.dataset.contract import Checked
from solotune.dataset.diagnose import load_object
from solotune.dataset.formats import alpaca, messages, openai_chat, prompt_completion, sharegpt
from solotune.dataset.formats.raw_names import Origin, in_raw_names
from solotune.dataset.readers.source import RawRecord
from solotune.dataset.reasons import RowProblem
from solotune.errors import DataError


class Format(Protocol):
    """What a format's module has."""

    @property
    def FIELDS(self) -> tuple[str, ...]:  # noqa: N802 - a constant of a module
        """The fields that it reads, by our names; `dataset.columns` may give them others."""

    @property
    def convert(self) -> Callable[[Mapping[str, Any], Mapping[str, str]], dict[str, Any]]:
        """A row as plain values; what the contract checks isn't checked twice. May raise RowProblem."""

    @property
    def origin(self) -> Callable[[Mapping[str, Any], Mapping[str, str]], Origin]:
        """Where the messages of a converted row stand in its record; asked only where the contract refuses the row."""


FORMATS: dict[str, Format] = {
    "messages": messages,
    "openai_chat": openai_chat,
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
}


class Parser:
    """Makes rows of records, as the config says that they are laid out.

    A JSON line of format `messages` is the contract itself, and an unknown key in it is an error. Everything
    else may have columns that aren't read: they are left out, and counted in `unread`, so that a misspelt one
    is seen.
    """

    def __init__(self, dataset: DatasetConfig) -> None:
        self._format = FORMATS[dataset.format]
        unknown = sorted(dataset.columns.keys() - set(self._format.FIELDS))
        if unknown:
            raise DataError(
                f"dataset.columns: format {dataset.format} has no field {', '.join(unknown)}",
                f"Its fields are {', '.join(self._format.FIELDS)}",
            )
        self._columns = dataset.columns
        self._read = {dataset.columns.get(field, field) for field in self._format.FIELDS}
        self._is_contract = dataset.format == "messages" and not dataset.columns
        self._as_text = dataset.control_tokens == "as_text"
        self.unread: Counter[str] = Counter()

    def parse_many(self, records: Sequence[RawRecord]) -> list[Checked | RowProblem]:
        """What `parse` returns or raises, of each."""
        if self._is_contract and all(record.problem is None and record.value is UNSET for record in records):
            found = contract.checked_lines([record.raw for record in records])
            if found is not None:
                return [*found]
        return [self._parsed(record) for record in records]

    def _parsed(self, record: RawRecord) -> Checked | RowProblem:
        try:
            return self.parse(record)
        except RowProblem as problem:
            return problem

    def parse(self, record: RawRecord) -> Checked:
        """The row in a record.

        Raises:
            RowProblem: there is none, or it breaks a rule.
        """
        if record.problem:
            raise record.problem
        if isinstance(record.value, dict):
            value = record.value
        elif self._is_contract:
            return contract.checked_line(record.raw, control_tokens_as_text=self._as_text)
        else:
            value = load_object(record.raw)
        self.unread.update(value.keys() - self._read)
        row = self._format.convert(value, self._columns)
        try:
            return contract.checked_value(row, control_tokens_as_text=self._as_text)
        except RowProblem as problem:
            origin = self._format.origin(value, self._columns)
            raise in_raw_names(problem, value, self._columns, origin, self._format.FIELDS) from None
