from __future__ import annotations

from typing import Any

import msgspec
import pytest

from solotune.artifacts.files import FileRecord
from solotune.artifacts.measured import Artefact, Divergence, ExportCommand, ExportRecord
from solotune.chains.exports import commands_of, differing_exports

FOUND = Divergence(100, 0.1, 0.01, 1e-4, 1e-3, 1.0)


def made(path: str | None, **more: Any) -> Artefact:
    files = {"model.safetensors": FileRecord(10, "aa"), "README.md": FileRecord(3, "cc")} if path else {}
    values: dict[str, Any] = {"merge_base": "original", "dtype": "bfloat16", "divergence": FOUND}
    return Artefact(path, files, measured={"loss": 1.5}, tolerance={"max_kl": 0.01}, passed=True, **(values | more))


def record(*commands: ExportCommand, examples: int = 12, **artefacts: Artefact) -> ExportRecord:
    return ExportRecord(1, "run", examples, artefacts, list(commands))


def test_the_commands_of_an_export_ask_for_the_same_again() -> None:
    commands = (
        ExportCommand(False, None, [], ["export.max_kl=1e-9"]),  # its merge failed, and the adapter stayed
        ExportCommand(True, "original", ["q8_0"], ["export.max_kl=100", "export.merge_dtype=float16"]),
        ExportCommand(False, None, ["f16", "q4_k_m"], []),
    )
    first, second = commands_of(record(*commands), "again")
    assert " ".join(first) == (
        "export --run again --merge --merge-base original --gguf q8_0 --set export.max_kl=100 "
        "--set export.merge_dtype=float16 --set export.proof_examples=12"
    )
    assert " ".join(second) == "export --run again --gguf f16,q4_k_m"


def test_on_how_many_rows_is_said_once_and_is_what_the_record_has() -> None:
    """The second one asked for 64 in vain, and the first one, on a split of 12, in part."""
    asked = "export.proof_examples=64"
    commands = (
        ExportCommand(True, None, [], [asked, "export.max_kl=100"]),
        ExportCommand(False, None, ["f16"], ["export.max_kl=1", asked]),
    )
    first, second = commands_of(record(*commands), "again")
    assert " ".join(first) == "export --run again --merge --set export.max_kl=100 --set export.proof_examples=12"
    assert " ".join(second) == "export --run again --gguf f16 --set export.max_kl=1"


def test_an_adapter_alone_is_exported_alone() -> None:
    assert commands_of(record(ExportCommand(False, None, [], []), examples=0), "again") == [
        ["export", "--run", "again"]
    ]


def test_the_same_is_no_difference_whatever_its_card_says() -> None:
    one = made("export/merged")
    other = msgspec.structs.replace(one, files=one.files | {"README.md": FileRecord(4, "dd")})
    assert differing_exports(record(merged=one), record(merged=other)) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"merge_base": "dequantised"}, "merged into dequantised instead of original"),
        ({"dtype": "float16"}, "stored as float16 instead of bfloat16"),
        ({"made_by": "llama-quantize"}, "made by llama-quantize instead of None"),
        ({"tolerance": {"max_kl": 1.0}}, "max_kl 1.0 instead of 0.01"),
        ({"files": {"model.safetensors": FileRecord(10, "bb")}}, "model.safetensors is another"),
        ({"measured": {"loss": 1.6}}, "other figures were measured on it"),
        ({"computed_in": "float32 on cpu"}, "measured in float32 on cpu instead of bfloat16 on cpu"),
    ],
)
def test_what_differs_is_named(other: dict[str, Any], said: str) -> None:
    one = made("export/merged", computed_in="bfloat16 on cpu")
    assert differing_exports(record(merged=one), record(merged=msgspec.structs.replace(one, **other))) == [
        f"merged: {said}"
    ]


def test_a_record_that_doesnt_say_in_what_it_was_measured_differs_in_nothing() -> None:
    one = made("export/merged")
    other = made("export/merged", computed_in="bfloat16 on cpu")
    assert differing_exports(record(merged=one), record(merged=other)) == []


def test_what_is_missing_is_named() -> None:
    first = record(adapter=made("export/adapter"), merged=made("export/merged"))
    assert differing_exports(first, record(adapter=made("export/adapter"))) == ["merged: wasn't made again"]
    assert differing_exports(first, None) == ["adapter: wasn't made again", "merged: wasn't made again"]
