"""Whether the prediction is JSON that a JSON Schema allows.

Range: 0 or 1, higher is better; applies to every row, and the reference does not matter.
Normalisation: none. The whole text is one JSON value, read as strictly as `json_valid` reads it, but a bare number or
string may be one too; nesting beyond 500 levels and half a surrogate pair fail.
The schema says its draft by `$schema` (4, 6, 7, 2019-09, 2020-12; without one it is 2020-12). `format` is checked,
which the standard leaves open, unless `formats: false`. A `$ref` reaches within the schema only: nothing is fetched.
Reference: JSON Schema (json-schema.org) as the package jsonschema-rs implements it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
from pydantic import Field, field_validator

from solotune.config.schema import Text
from solotune.metrics.json_valid import read_json
from solotune.metrics.kinds import AnswerOptions, BadOption, Scorer

_MOST_NESTED = 500  # each level takes of the stack, and a full one ends the process
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonSchemaValid(AnswerOptions):
    schema_: Text | dict[str, Any] = Field(alias="schema")
    """The schema, or the JSON file that holds it."""
    formats: bool = True
    """Whether the schema's `format` is checked."""

    @field_validator("schema_")
    @classmethod
    def schema_is_one(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, dict):
            _validator(value, formats=True)
        return value

    def scorer(self) -> Scorer:
        if isinstance(self.schema_, dict):
            schema: Any = self.schema_
            words = "schema of the config"
        else:
            schema, digest = _schema_of(self.schema_)
            words = f"schema {self.schema_}, sha256 {digest[:12]}"
        try:
            validator = _validator(schema, self.formats)
        except ValueError as error:
            raise BadOption("schema", f"{self.schema_}: {error}") from None

        def json_schema_valid(prediction: str, reference: str) -> float:
            try:
                document = read_json(prediction)
            except ValueError:
                return 0.0
            return float(_readable(document) and validator.is_valid(document))

        return Scorer(json_schema_valid, words if self.formats else f"{words}, formats unchecked")


def _schema_of(file: str) -> tuple[Any, str]:
    """The file's value and the sha256 of its bytes."""
    try:
        content = Path(file).read_bytes()
        return json.loads(content), hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise BadOption("schema", f"{file} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadOption("schema", f"{file} is not JSON: {error}") from None


def _validator(schema: Any, formats: bool) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(schema, validate_formats=formats, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        where = "".join(f"[{part!r}]" for part in error.instance_path) if hasattr(error, "instance_path") else ""
        message = error.message if hasattr(error, "message") else str(error)
        raise ValueError(f"not a JSON Schema: {where and where + ': '}{message}") from None


def _readable(document: Any) -> bool:
    """Whether the validator can take it: it recurses, and its texts are UTF-8, which half a surrogate pair is not."""
    level = [document]
    for _ in range(_MOST_NESTED):
        if any(isinstance(value, str) and _SURROGATE.search(value) for value in level):
            return False
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in ([*value, *value.values()] if isinstance(value, dict) else value)
        ]
        if not level:
            return True
    return False
