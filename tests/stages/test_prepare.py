"""prepare as people meet it: files in, splits or one clear refusal out, and raw files as they were."""

import csv
import errno
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from solotune.artifacts.lock import held
from solotune.artifacts.splits_dir import SplitsDir
from solotune.config.schema import RunConfig
from solotune.dataset.clean import quarantine_line
from solotune.dataset.reasons import REASONS
from solotune.dataset.split import Splitter, group_key
from solotune.dataset.stored import read_rows
from solotune.errors import ArtifactError, DataError
from solotune.stages import prepare

RAW = Path("data/raw/set")
SPLITS = Path("data/splits")


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOLOTUNE_MODELS", str(tmp_path / "no-models"))
    RAW.mkdir(parents=True)
    return tmp_path


def config(**dataset: Any) -> RunConfig:
    dataset = {"raw_files": [f"{RAW}/*.jsonl"], "val_fraction": 0.2, "test_fraction": 0.2, **dataset}
    return RunConfig.model_validate(
        {
            "dataset": {"splits_dir": str(SPLITS), **dataset},
            "model": {"name_or_path": "some/model", "revision": "0" * 40},
            "training": {"max_length": 64},
        }
    )


def row(n: int | str, question: str | None = None, answer: str = "a", **meta: Any) -> dict:
    turns = [
        {"role": "user", "content": f"question {n}" if question is None else question},
        {"role": "assistant", "content": answer},
    ]
    return {"id": f"r{n}", "messages": turns, **({"meta": meta} if meta else {})}


def line(*args: Any, **kwargs: Any) -> bytes:
    return json.dumps(row(*args, **kwargs)).encode()


def write(lines: Sequence[bytes], name: str = "a.jsonl") -> None:
    (RAW / name).write_bytes(b"".join(text + b"\n" for text in lines))


def good(count: int = 60, start: int = 0) -> list[bytes]:
    return [line(n) for n in range(start, start + count)]


def tree(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() + str(p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def names(folder: Path = SPLITS) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def quarantined(path: Path = SPLITS / "quarantine.jsonl") -> list[dict]:
    return [json.loads(text) for text in path.read_bytes().splitlines()]


def ids() -> dict[str, list[str]]:
    return {s: [r.id for r in read_rows(SPLITS / f"{s}.jsonl")] for s in ("train", "val", "test")}


ROWS = ["quarantine.jsonl", "test.jsonl", "train.jsonl", "val.jsonl"]
WHOLE = sorted(["manifest.json", "near_duplicates.jsonl", "report.html", *ROWS])


# --- What is written ------------------------------------------------------------------------------


def test_rows_are_divided_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    write([*good(), line(0), line("x", "declared", tags=["t"], split="val")])
    before = tree(Path("data/raw"))
    splits = prepare.run(config())
    assert names() == WHOLE
    manifest = splits.open(config().dataset)
    found = ids()
    assert sum(map(len, found.values())) == manifest.rows_kept == 61
    assert (manifest.rows_in, manifest.rows_duplicate, manifest.rows_quarantined) == (62, 1, 0)
    assert manifest.rows == {split: len(of) for split, of in found.items()}
    assert manifest.tags == {"t": {"train": 0, "val": 1, "test": 0}}
    assert list(manifest.inputs) == ["data/raw/set/a.jsonl"]
    assert list(manifest.outputs) == ROWS
    assert "rx" in found["val"]
    splitter = Splitter(config().dataset)
    for split, path in ((s, SPLITS / f"{s}.jsonl") for s in found):
        for kept in read_rows(path):
            assert kept.id == "rx" or splitter.side_of(splitter.group_of(kept)) == split
    assert tree(Path("data/raw")) == before
    out = capsys.readouterr().out
    assert "rows in" in out
    assert "invoke fetch" in out


def test_rows_in_canonical_form_keep_their_bytes_and_their_order() -> None:
    lines = [json.dumps(row(n), separators=(",", ":")).encode() for n in range(50)]
    write(lines)
    prepare.run(config())
    written = b"".join((SPLITS / f"{s}.jsonl").read_bytes() for s in ("train", "val", "test")).split(b"\n")[:-1]
    assert sorted(written) == sorted(lines)
    for found in ids().values():
        assert found == sorted(found, key=lambda i: int(i[1:]))


def test_the_same_rows_give_the_same_bytes(repository: Path) -> None:
    write(good())
    prepare.run(config())
    first = {name: (SPLITS / name).read_bytes() for name in WHOLE}
    prepare.run(config(), replace=True)
    assert {name: (SPLITS / name).read_bytes() for name in WHOLE} == first


def test_rows_stay_where_they_are_when_others_come_and_change_places() -> None:
    write(good())
    prepare.run(config())
    before = {i: split for split, found in ids().items() for i in found}
    write(good(30, start=100), "0.jsonl")
    write(good()[::-1])
    prepare.run(config(), replace=True)
    after = {i: split for split, found in ids().items() for i in found}
    assert len(after) == 90
    assert {i: after[i] for i in before} == before


def test_no_group_is_on_two_sides_and_declarations_win_even_when_they_come_last() -> None:
    asked = [line(f"{n}-{copy}", f"Question {n}", f"answer {copy}") for n in range(40) for copy in range(3)]
    late = [line(f"late {n}", f"question  {n}", "other", split="test") for n in range(0, 40, 5)]
    write(asked + late)
    prepare.run(config())
    where: dict[bytes, set[str]] = {}
    for split in ("train", "val", "test"):
        for found in read_rows(SPLITS / f"{split}.jsonl"):
            where.setdefault(group_key(found), set()).add(split)
    assert all(len(sides) == 1 for sides in where.values())
    assert all(where[f"\0question {n}".encode()] == {"test"} for n in range(0, 40, 5))


def test_all_file_types_and_patterns_together() -> None:
    import pyarrow as pa
    import pyarrow.parquet

    record = {"instruction": "q", "input": "", "output": "a", "note": "x"}
    records = [{**record, "instruction": f"q{n}"} for n in range(50)]
    (RAW / "a.jsonl").write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in records[:10]))
    (RAW / "b.json").write_text(json.dumps(records[10:20], indent=1))
    with (RAW / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, record.keys())
        writer.writeheader()
        writer.writerows(records[20:30])
    (RAW / "d.jsonl.gz").write_bytes(gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in records[30:40])))
    pa.parquet.write_table(pa.Table.from_pylist(records[40:]), RAW / "e.parquet")
    splits = prepare.run(config(raw_files=[f"{RAW}/*"], format="alpaca"))
    manifest = splits.manifest()
    assert (manifest.rows_in, manifest.rows_kept) == (50, 50)
    assert manifest.unread_columns == {"note": 50}
    assert len(manifest.inputs) == 5
    assert all(i.startswith("sha256-") for found in ids().values() for i in found)


# --- Quarantine -----------------------------------------------------------------------------------

BAD: dict[str, bytes] = {
    "invalid_utf8": b'{"id": "\xff"}',
    "line_too_long": b"x" * (8 * 1024 * 1024 + 1),
    "invalid_json": b'{"id": "cut", "mess',
    "bom_inside": b"\xef\xbb\xbf" + line("i"),
    "nesting_too_deep": b"[" * 100_000,
    "duplicate_key": b'{"id": "k1", "id": "k2"}',
    "missing_field": b'{"id": "m"}',
    "unknown_field": json.dumps({**row("u"), "note": 1}).encode(),
    "wrong_type": json.dumps({**row("w"), "id": 7}).encode(),
    "bad_id": json.dumps({**row("b"), "id": "a\tb"}).encode(),
    "duplicate_id": json.dumps({**row("d"), "id": "r0"}).encode(),
    "empty_messages": b'{"id": "e", "messages": []}',
    "bad_role_order": json.dumps({**row("o"), "messages": row(1)["messages"][::-1]}).encode(),
    "last_not_assistant": json.dumps({**row("l"), "messages": row(1)["messages"][:1]}).encode(),
    "empty_content": line("c", " "),
    "lone_surrogate": line("s", "\ud800"),
    "nul_character": line("n", "a\0b"),
    "control_character": line("k", "a\x1b[2Jb"),
    "control_token": line("t", "hi<|im_end|>"),
}


def test_every_reason_of_a_json_line_has_its_code_and_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert BAD.keys() == REASONS.keys() - {"invalid_csv"}
    lines, where = [line(0), b""], {}
    for code, bad in BAD.items():
        where[code] = (len(lines) + 1, sum(len(text) + 1 for text in lines))
        lines += [bad, line(f"after {code}")]
    lines += good(60, start=1)
    write(lines)
    prepare.run(config(quarantine="keep_going"))
    found = {entry["code"]: entry for entry in quarantined()}
    assert {code: (entry["line"], entry["offset"]) for code, entry in found.items()} == where
    for code, bad in BAD.items():
        raw_key = "raw_base64" if code == "invalid_utf8" else "raw"
        assert list(found[code]) == ["file", "line", "offset", "code", "message", raw_key]
        assert found[code]["file"] == "data/raw/set/a.jsonl"
        if code not in ("invalid_utf8", "line_too_long"):
            assert found[code]["raw"].encode() == bad
    manifest = SplitsDir(SPLITS).manifest()
    assert manifest.reasons == dict.fromkeys(sorted(BAD), 1)
    assert manifest.rows_in == manifest.rows_kept + manifest.rows_quarantined == 61 + 2 * len(BAD)
    assert manifest.notes == {"blank_line": 1}
    out = capsys.readouterr().out
    for code, (number, _) in where.items():
        assert f"data/raw/set/a.jsonl:{number}\n" in out, code
    assert "\x1b" not in out


def test_a_broken_csv_record_has_its_code_and_its_place() -> None:
    records = "".join(f"q{n},a\n" for n in range(60))
    (RAW / "a.csv").write_text(f'prompt,completion\n{records}"q\nq",a,b\n')
    prepare.run(config(raw_files=[f"{RAW}/a.csv"], format="prompt_completion", quarantine="keep_going"))
    assert [(e["line"], e["code"], e["raw"]) for e in quarantined()] == [(62, "invalid_csv", '"q\nq",a,b')]


def test_a_byte_order_mark_is_reported_and_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write([b"\xef\xbb\xbf" + line("first"), *good()])
    manifest = prepare.run(config()).manifest()
    assert (manifest.rows_kept, manifest.notes) == (61, {"bom": 1})
    assert "byte order mark" in capsys.readouterr().out


def test_fail_reports_everything_and_publishes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write([*good(), b"{", b"[]"])
    with pytest.raises(DataError, match=r"2 of 62 rows \(3\.23%\) can't be used\. Each is in data/splits/rejected"):
        prepare.run(config())
    assert names() == ["rejected.jsonl"]
    assert [(e["line"], e["code"]) for e in quarantined(SPLITS / "rejected.jsonl")] == [
        (61, "invalid_json"),
        (62, "wrong_type"),
    ]
    out = capsys.readouterr().out
    assert "invalid_json" in out
    assert "a.jsonl:61" in out


def test_of_the_most_frequent_reasons_the_first_row_is_shown_with_what_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = b'{"id": "x\xc2\x9b", "mess\xe2\x80\xae": 1}'
    write([*good(), b'{"id": "m"}', broken, broken, b"{", b"{", b"{", b"[]"])
    with pytest.raises(DataError):
        prepare.run(config())
    out = capsys.readouterr().out
    at = f"  {RAW}/a.jsonl"
    shown = [text for text in out.splitlines() if text.startswith(at)]
    assert [text.split(": ")[0] for text in shown] == [f"{at}:64", f"{at}:62", f"{at}:61"]
    assert shown[2] == f"{at}:61: $: the key 'messages' is missing. Add it"
    assert r"the key 'mess\u202e' isn't part of a row" in shown[1]
    assert "Write one whole JSON object on each line" in shown[0]


def test_a_reason_is_shown_in_bounded_length_and_printable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "solotune.stages.prepare.quarantine_line",
        lambda record, problem: {**quarantine_line(record, problem), "message": "\x1b[2J\n" + "x" * 9999},
    )
    write([*good(), b"{"])
    with pytest.raises(DataError):
        prepare.run(config())
    (shown,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith(f"  {RAW}/a.jsonl:61: ")]
    assert r": \x1b[2J\x0axxx" in shown
    assert len(shown) < 600


def test_rows_with_other_column_names_are_shown_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    (RAW / "a.csv").write_text("question,answer\n" + "".join(f"q{n},a\n" for n in range(60)))
    table = {"raw_files": [f"{RAW}/a.csv"], "format": "prompt_completion"}
    with pytest.raises(DataError, match=r"and does dataset\.columns name the columns"):
        prepare.run(config(**table))
    assert "{prompt: COLUMN}; the keys here are 'question', 'answer'\n" in capsys.readouterr().out
    prepare.run(config(**table, columns={"prompt": "question", "completion": "answer"}))


def test_objects_over_several_lines_are_told_from_the_wrong_format() -> None:
    (RAW / "a.jsonl").write_text("\n" + "\n".join(json.dumps(row(n), indent=2) for n in range(60)))
    for policy in ("fail", "keep_going"):
        with pytest.raises(DataError, match=r"a\.jsonl looks like objects over several lines.*into a \.json file"):
            prepare.run(config(quarantine=policy))
    (RAW / "a.jsonl").write_text(json.dumps([row(n) for n in range(60)], indent=2))
    with pytest.raises(DataError, match=r"one array over several lines: name it \.json"):
        prepare.run(config())
    (RAW / "a.jsonl").rename(RAW / "a.json")
    prepare.run(config(raw_files=[f"{RAW}/a.json"]))


def test_splits_made_with_a_flag_are_told_which_flag_the_next_command_needs() -> None:
    write([*good(), b"{"])
    with pytest.raises(DataError, match=r"keep_going in the config file \(with --set, each later command"):
        prepare.run(config())
    splits = prepare.run(config(quarantine="keep_going"))
    with pytest.raises(ArtifactError, match=r"add `--set dataset\.quarantine=keep_going` to this command"):
        splits.open(config().dataset)


def test_a_failed_replacement_leaves_the_old_splits_whole() -> None:
    write(good())
    prepare.run(config())
    before = tree(SPLITS)
    write([b"{"], "b.jsonl")
    with pytest.raises(DataError, match="1 of 61"):
        prepare.run(config(), replace=True)
    assert names() == sorted([*WHOLE, "rejected.jsonl"])
    (SPLITS / "rejected.jsonl").unlink()
    assert tree(SPLITS) == before


def test_what_was_rejected_is_not_taken_for_the_next_failures() -> None:
    write([*good(), b"broken"])
    with pytest.raises(DataError):
        prepare.run(config())
    assert (SPLITS / "rejected.jsonl").exists()
    write([*good(), line("a", "same", split="train"), line("b", "same", "other", split="test")])
    with pytest.raises(DataError, match="declared for two splits"):
        prepare.run(config())
    assert not (SPLITS / "rejected.jsonl").exists()


def test_a_second_prepare_is_told_of_the_first_and_leaves_it_alone() -> None:
    write(good())
    SPLITS.mkdir(parents=True)
    with held(SPLITS, "prepare"), pytest.raises(ArtifactError, match="`prepare` works in data/splits"):
        prepare.run(config())
    prepare.run(config())
    assert not (SPLITS / ".lock").exists()


def test_near_duplicates_that_were_changed_are_made_anew() -> None:
    write(good())
    prepare.run(config())
    for damage in (lambda path: path.write_bytes(b"junk\n"), Path.unlink):
        damage(SPLITS / "near_duplicates.jsonl")
        with pytest.raises(ArtifactError, match=r"near_duplicates.jsonl isn't what prepare wrote.*--replace"):
            prepare.run(config())
        prepare.run(config(), replace=True)


def test_what_was_rejected_goes_when_it_is_repaired() -> None:
    write([*good(), b"{"])
    with pytest.raises(DataError):
        prepare.run(config())
    write(good())
    prepare.run(config())
    assert names() == WHOLE


def test_max_fraction_tolerates_its_share() -> None:
    write([*good(99), b"{"])
    assert prepare.run(config(quarantine="max_fraction")).manifest().rows_quarantined == 1
    write([*good(98), b"{", b"["])
    with pytest.raises(DataError, match=r"2 of 100 rows \(2\.00%\).*allows 1\.00%"):
        prepare.run(config(quarantine="max_fraction"), replace=True)


def test_the_wrong_format_leaves_nothing_and_says_so() -> None:
    write([b'{"instruction": "q", "output": "a"}'] * 9)
    with pytest.raises(DataError, match=r"none is left\. .*Is dataset\.format the right one"):
        prepare.run(config(quarantine="keep_going"))
    assert {e["code"] for e in quarantined(SPLITS / "rejected.jsonl")} == {"unknown_field"}


# --- Refusals -------------------------------------------------------------------------------------


def test_the_same_again_is_up_to_date_and_rewrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write([*good(), b"", b"{"])
    prepare.run(config(quarantine="keep_going"))
    first, before = capsys.readouterr().out, tree(SPLITS)
    prepare.run(config(quarantine="keep_going", on_overflow="drop"))
    again = capsys.readouterr().out
    assert tree(SPLITS) == before
    assert "up to date" in again
    tables = [[text for text in shown.splitlines() if text.startswith("  ")] for shown in (first, again)]
    assert tables[0] == tables[1]


def test_another_config_or_other_rows_are_refused_until_replace() -> None:
    write(good())
    prepare.run(config())
    before = tree(SPLITS)
    with pytest.raises(ArtifactError, match=r"another dataset section \(seed: 0 -> 1\).*--replace"):
        prepare.run(config(seed=1))
    write(good(5, start=70), "b.jsonl")
    with pytest.raises(
        ArtifactError, match=r"other raw files \(data/raw/set/b\.jsonl changed, came or went\).*--replace"
    ):
        prepare.run(config())
    assert tree(SPLITS) == before
    prepare.run(config(seed=1), replace=True)
    assert SplitsDir(SPLITS).open(config(seed=1).dataset).rows_kept == 65


def test_splits_changed_by_hand_are_refused_until_replace() -> None:
    write(good())
    prepare.run(config())
    with (SPLITS / "train.jsonl").open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(ArtifactError, match=r"train\.jsonl has .* bytes instead of .*--replace"):
        prepare.run(config())
    prepare.run(config(), replace=True)
    assert SplitsDir(SPLITS).open(config().dataset)


def test_an_unfinished_folder_is_finished_without_replace() -> None:
    SPLITS.mkdir()
    (SPLITS / "train.jsonl").write_bytes(b"half")
    (SPLITS / ".staged-prepare.1").mkdir()
    write(good())
    prepare.run(config())
    assert names() == WHOLE


@pytest.mark.parametrize("where", ["data/raw", "data/raw/splits", "data/splits/../raw/x", "elsewhere"])
def test_raw_folders_are_never_written(where: str) -> None:
    write(good())
    Path("elsewhere").mkdir()
    shutil.copy(RAW / "a.jsonl", "elsewhere/mine.jsonl")
    before = tree(Path())
    with pytest.raises(DataError, match=r"is where raw files are"):
        prepare.run(config(raw_files=[f"{RAW}/*.jsonl", "elsewhere/mine.jsonl"], splits_dir=where))
    assert tree(Path()) == before


def test_a_link_into_the_raw_folder_is_no_way_round() -> None:
    write(good())
    Path("link").symlink_to("data/raw")
    with pytest.raises(DataError, match="is where raw files are"):
        prepare.run(config(splits_dir="link/out"))


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        ([], {}, r"there are no rows in data/raw/set/a\.jsonl"),
        ([b"", b" "], {}, r"there are no rows"),
        (good(1), {}, r"the (train|val|test) split would be empty"),
        (
            [line(n, split="train") for n in range(9)],
            {},
            r"the val split would be empty: .*set the fraction to 0",
        ),
        ([line(n, split="test") for n in range(9)], {}, r"the train split would be empty"),
        (
            [line(1, "q", split="train"), line(2, "Q", split="test")],
            {},
            r"a\.jsonl:1 says train, .*a\.jsonl:2 says test",
        ),
        (good(), {"columns": {"text": "t"}}, r"format messages has no field text"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_way_out(lines: list[bytes], changes: dict, message: str) -> None:
    write(lines)
    with pytest.raises(DataError, match=message) as caught:
        prepare.run(config(**changes))
    assert "\n" not in str(caught.value)
    assert not SplitsDir(SPLITS).is_complete
    assert not SPLITS.exists() or names() == []


def test_splits_that_are_not_asked_for_may_be_empty(capsys: pytest.CaptureFixture[str]) -> None:
    write(good(3))
    manifest = prepare.run(config(val_fraction=0.0, test_fraction=0.0)).manifest()
    assert manifest.rows == {"train": 3, "val": 0, "test": 0}
    assert "val is empty, as dataset.val_fraction: 0 asks" in capsys.readouterr().out


def test_duplicates_that_declare_two_sides_are_a_conflict() -> None:
    write([*good(), line("x", "same", split="train"), line("y", "same", split="test")])
    with pytest.raises(DataError, match=r"a\.jsonl:61 says train, data/raw/set/a\.jsonl:62 says test"):
        prepare.run(config())


# --- Trouble on the way ---------------------------------------------------------------------------


def test_an_interrupt_leaves_nothing_that_looks_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    write(good())
    prepare.run(config())
    before = tree(SPLITS)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Splitter, "side_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare.run(config(), replace=True)
    assert tree(SPLITS) == before


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            errno.ENOSPC,
            r"^the disk is full: data/splits couldn't be written, and nothing was published\. Free some",
        ),
        (errno.EACCES, r"^can't write data/splits: Permission denied\. Check that data/splits is there"),
        (errno.EIO, r"^can't write data/splits: Input/output error\."),
    ],
)
def test_trouble_with_the_disk_is_one_line(code: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(good())

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError, match=message) as caught:
        prepare.run(config())
    assert "\n" not in str(caught.value)
    assert names() == []


def test_a_splits_dir_that_cannot_be_made_is_one_line() -> None:
    write(good())
    Path("file").write_bytes(b"")
    for where in ("file", "file/deeper"):
        with pytest.raises(ArtifactError, match=r"^can't write file"):
            prepare.run(config(splits_dir=where))


@pytest.fixture
def small_disk(repository: Path) -> Any:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system; ENOSPC is played in the tests above")
    folder = repository / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"can't mount a tmpfs here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_really_fills_up_publishes_nothing(small_disk: Path) -> None:
    write([line(n, answer="x" * 400) for n in range(300)])
    with pytest.raises(ArtifactError, match="the disk is full"):
        prepare.run(config(splits_dir=str(small_disk / "splits")))
    assert names(small_disk / "splits") == []


def test_a_disk_that_fills_up_while_replacing_leaves_the_old_splits(small_disk: Path) -> None:
    at = str(small_disk / "splits")
    write(good(20))
    prepare.run(config(splits_dir=at))
    before = tree(small_disk)
    write([line(n, answer="x" * 400) for n in range(300)])
    with pytest.raises(ArtifactError, match="the disk is full"):
        prepare.run(config(splits_dir=at), replace=True)
    assert tree(small_disk) == before


# --- Token lengths --------------------------------------------------------------------------------


@dataclass
class Encoded:
    ids: list[int]
    spans: list[tuple[int, int]]


class OneTokenACharacter:
    """Stands in for modeling.chat.ChatEncoder."""

    fingerprint = "one token a character"
    control_tokens = ("<think>", "</think>", "<|im_end|>")

    @classmethod
    def open(cls, model: object, chat_template_path: str | None) -> "OneTokenACharacter":
        return cls()

    def check_against_template(self, chats: object) -> None:
        pass

    def encode_batch(self, chats: Sequence[Sequence[Any]]) -> list[Encoded]:
        return [self._encode(messages) for messages in chats]

    def _encode(self, messages: Sequence[Any]) -> Encoded:
        spans, end = [], 0
        for message in messages:
            begin, end = end, end + len(message.content)
            if message.role == "assistant":
                spans.append((begin, end))
        return Encoded([1] * end, spans)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOLOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("solotune.modeling.chat.ChatEncoder", OneTokenACharacter)
    monkeypatch.setattr(prepare.ModelDir, "is_complete", True)


def test_token_lengths_are_shown_and_overlong_rows_named(fetched: None, capsys: pytest.CaptureFixture[str]) -> None:
    train = [line(n, f"{n:010}", "a" * 10, split="train") for n in range(20)]
    long = line("\u202elong", "q" * 10, "a" * 60, split="val")
    write([*train, long, line("short", "q", "a", split="test")])
    prepare.run(config())
    shown = capsys.readouterr()
    cells = {words[0]: words[1:] for words in map(str.split, shown.out.splitlines()) if words}
    assert cells["train"] == ["20", "90.9%", "20", "20", "20", "50.0%", "0"]
    assert cells["val"] == ["1", "4.5%", "70", "70", "70", "85.7%", "1"]
    overlong = "rows of val with more than training.max_length = 64 tokens: 1 (r\\xe2\\x80\\xaelong); "
    assert overlong in shown.err
    assert "train refuses them" in shown.err
    write([*train, line("short", "q", "a", split="val"), line("long", "q" * 10, "a" * 60, split="test")])
    prepare.run(config(), replace=True)
    assert "tokens: 1 (rlong); evaluate measures them whole" in capsys.readouterr().err
    assert "train refuses" not in (SPLITS / "report.html").read_text()


def test_text_that_is_a_control_token_elsewhere_is_told_of(fetched: None, capsys: pytest.CaptureFixture[str]) -> None:
    write([*good(), line("<think>", "q1", "no"), line("a", "q2", "<think>hm</think>4"), line("b", "q3", "<think>5")])
    prepare.run(config())
    said = "note: rows with text that the tokenizer has as a control token; it stays text: <think> (2), </think> (1)\n"
    assert said in capsys.readouterr().out
    assert "<code>&lt;think&gt;</code>" in (SPLITS / "report.html").read_text()


def test_control_tokens_as_text_are_kept_and_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*good(), line("a", "What does <|im_end|> do?", "[INST] begins"), line("b", "q", "plain")]
    write(rows)
    with pytest.raises(DataError, match="quarantine"):
        prepare.run(config())
    assert "set dataset.control_tokens: as_text" in quarantined(SPLITS / "rejected.jsonl")[0]["message"]
    prepare.run(config(control_tokens="as_text"))
    assert sum(map(len, ids().values())) == len(rows)
    assert "rows with the text of a control token were kept; to the model it is text (1)" in capsys.readouterr().out


def test_token_lengths_come_when_the_model_does(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    write(good())
    prepare.run(config())
    assert "tokens p50" not in capsys.readouterr().out
    request.getfixturevalue("fetched")
    before = tree(SPLITS)
    prepare.run(config())
    assert "tokens p50" in capsys.readouterr().out
    after = tree(SPLITS)
    assert {name for name in after if after[name] != before[name]} == {"manifest.json", "report.html"}


# --- The repository's own rules -------------------------------------------------------------------


def test_prepare_imports_nothing_heavy() -> None:
    """Neither torch and its friends, nor what only some data sets need."""
    heavy = ["torch", "transformers", "datasets", "trl", "peft", "pyarrow", "tokenizers", "numpy"]
    code = f"import sys, solotune.stages.prepare; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_committed_demo_divides_as_it_declares() -> None:
    demo = Path(__file__).parents[2] / "data/raw/demo"
    prepare.run(config(raw_files=[str(demo / "commands.jsonl")]))
    declared: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for text in (demo / "commands.jsonl").read_bytes().split(b"\n")[:-1]:
        found = json.loads(text)
        declared[found["meta"]["split"]].append(found["id"])
    assert ids() == declared


def test_the_demo_with_its_broken_lines_is_refused_with_each_in_its_place() -> None:
    demo = Path(__file__).parents[2] / "data/raw/demo"
    with pytest.raises(DataError, match=r"rows .* can't be used"):
        prepare.run(config(raw_files=[str(demo / "*.jsonl")]))
    assert [(e["line"], e["code"]) for e in quarantined(SPLITS / "rejected.jsonl")] == [
        (2, "invalid_json"),
        (3, "last_not_assistant"),
        (4, "empty_content"),
        (5, "unknown_field"),
        (6, "wrong_type"),
        (7, "bad_role_order"),
        (8, "invalid_utf8"),
        (10, "duplicate_id"),
        (12, "control_token"),
    ]
