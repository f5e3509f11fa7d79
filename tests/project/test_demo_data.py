"""The committed demo data: made by its generator, true to the contract, with splits that test something."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "data" / "raw" / "demo"
FAMILIES = {"single", "multi_step", "refusal", "multi_turn"}
HELD_OUT_SPLITS = ("val", "test")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Split on newlines alone, as the program does."""
    return [json.loads(line) for line in (DEMO / "commands.jsonl").read_bytes().split(b"\n")[:-1]]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_generate", DEMO / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def split_of(row: dict) -> str:
    return row["meta"]["split"]


def family_of(row: dict) -> str:
    return row["meta"]["tags"][0]


def contents(row: dict, role: str) -> list[str]:
    return [message["content"] for message in row["messages"] if message["role"] == role]


def calls_of(answer: str) -> list[dict]:
    """The tool calls of an answer; none for a refusal."""
    parsed = json.loads(answer)
    return [call for call in parsed.get("steps", [parsed]) if call["tool"] != "none"]


def pair_of(call: dict) -> tuple:
    """(tool, room), or (tool, all arguments) for a tool that has no room: what is held out."""
    if "room" in call:
        return call["tool"], call["room"]
    return tuple(call.values())


def pairs_in(rows: list[dict]) -> set[tuple]:
    return {pair_of(call) for row in rows for answer in contents(row, "assistant") for call in calls_of(answer)}


def words_of(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


# --- The generator ------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_the_generator_writes(generator: ModuleType) -> None:
    files = generator.files()
    assert set(files) == {"commands.jsonl", "broken.jsonl"}
    for name, wanted in files.items():
        assert (DEMO / name).read_bytes() == wanted, f"{name}: run python data/raw/demo/generate.py"


def test_check_answers_by_exit_status_and_writes_nothing(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generator.main(["--check"]) == 0
    monkeypatch.setattr(generator, "HERE", tmp_path)
    assert generator.main(["--check"]) == 1
    assert not list(tmp_path.iterdir())


def test_the_hash_seed_of_the_process_does_not_matter() -> None:
    for seed in ("0", "1"):
        command = [sys.executable, "-I", str(DEMO / "generate.py"), "--check"]
        subprocess.run(command, check=True, env={"PYTHONHASHSEED": seed})


# --- The rows -----------------------------------------------------------------------------------------------


def test_every_row_keeps_the_contract(rows: list[dict]) -> None:
    for row in rows:
        assert set(row) == {"id", "messages", "meta"}
        assert set(row["meta"]) == {"source", "tags", "split"}
        assert row["meta"]["source"] == "demo"
        assert family_of(row) in FAMILIES
        roles = [message["role"] for message in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (2 if family_of(row) == "multi_turn" else 1)
        assert all(message["content"].strip() for message in row["messages"])


def test_ids_are_unique_across_both_files(rows: list[dict]) -> None:
    ids = [row["id"] for row in rows]
    assert len(ids) == len(set(ids))
    assert not any(i.startswith("broken-") for i in ids)


def test_no_user_says_the_same_in_two_rows(rows: list[dict]) -> None:
    said = Counter(tuple(map(words_of, contents(row, "user"))) for row in rows)
    assert [text for text, count in said.items() if count > 1] == []


def test_every_answer_is_one_compact_json_object(rows: list[dict]) -> None:
    for row in rows:
        for answer in contents(row, "assistant"):
            parsed = json.loads(answer)
            assert isinstance(parsed, dict)
            assert answer == json.dumps(parsed, separators=(",", ":"))
            assert next(iter(parsed)) in {"tool", "steps"}


def test_a_tool_has_the_same_keys_in_the_same_order_everywhere(rows: list[dict]) -> None:
    keys: dict[str, set[tuple]] = {}
    for row in rows:
        for answer in contents(row, "assistant"):
            for call in calls_of(answer):
                keys.setdefault(call["tool"], set()).add(tuple(call))
    assert len(keys) == 13
    assert all(len(orders) == 1 for orders in keys.values())


def test_commands_are_short(rows: list[dict]) -> None:
    assert all(len(text.split()) <= 20 for row in rows for text in contents(row, "user"))


# --- The splits ---------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_readme(rows: list[dict]) -> None:
    counts = Counter((split_of(row), family_of(row)) for row in rows)
    table = re.findall(r"^\| (\w+) +\|((?: +\d+ \|)+)$", (DEMO / "README.md").read_text("utf-8"), re.MULTILINE)
    stated = {split: [int(cell) for cell in cells.split("|")[:-1]] for split, cells in table}
    assert set(stated) == {"train", "val", "test"}
    for split, cells in stated.items():
        families = [counts[split, family] for family in ("single", "multi_step", "refusal", "multi_turn")]
        assert cells == [*families, sum(families)]
    assert 1000 <= len(rows) <= 1300


def test_all_four_families_are_in_each_split(rows: list[dict]) -> None:
    for split in ("train", *HELD_OUT_SPLITS):
        assert {family_of(row) for row in rows if split_of(row) == split} == FAMILIES


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
def test_held_out_answers_need_a_pair_that_training_never_shows(rows: list[dict], split: str) -> None:
    elsewhere = pairs_in([row for row in rows if split_of(row) != split])
    checked = 0
    for row in rows:
        if split_of(row) == split and family_of(row) != "refusal":
            pairs = {pair_of(call) for call in calls_of(contents(row, "assistant")[-1])}
            assert pairs - elsewhere, row["id"]
            checked += 1
    assert checked > 30


def test_held_out_users_say_nothing_that_training_users_say(rows: list[dict]) -> None:
    said = {split: set() for split in ("train", *HELD_OUT_SPLITS)}
    for row in rows:
        said[split_of(row)].update(map(words_of, contents(row, "user")))
    assert not said["train"] & said["val"]
    assert not said["train"] & said["test"]
    assert not said["val"] & said["test"]


def test_held_out_answers_never_occur_in_training(rows: list[dict]) -> None:
    """Refusals aside: they are four fixed answers, and what is held out is the thing that is refused."""
    trained = {contents(row, "assistant")[-1] for row in rows if split_of(row) == "train"}
    for row in rows:
        if split_of(row) != "train" and family_of(row) != "refusal":
            assert contents(row, "assistant")[-1] not in trained, row["id"]


def test_held_out_refusals_name_things_that_training_never_names(rows: list[dict], generator: ModuleType) -> None:
    """An unknown device or a chore of one split is named by no row of another."""
    tables = (generator.UNKNOWN_DEVICES, generator.CHORES)
    found = 0
    for thing in (words_of(thing) for table in tables for thing in table):
        texts = [(split_of(row), words_of(text)) for row in rows for text in contents(row, "user")]
        splits = {split for split, text in texts if f" {thing} " in f" {text} "}
        assert len(splits) <= 1, thing
        found += bool(splits)
    assert found > 40


def test_unknown_rooms_are_held_out_in_pairs_with_what_is_asked_for(generator: ModuleType) -> None:
    """No tool and unknown room of val or test stand together in training."""
    pairs = {
        split: {
            (tool.name, room)
            for i, tool in enumerate(generator.ROOM_TOOLS)
            for room in generator.members(generator.UNKNOWN_ROOMS, split, offset=i)
        }
        for split in ("train", *HELD_OUT_SPLITS)
    }
    assert {room for _, room in pairs["train"]} == set(generator.UNKNOWN_ROOMS)
    for split in HELD_OUT_SPLITS:
        assert pairs[split]
        assert not pairs[split] & pairs["train"]


def test_unknown_rooms_are_all_refused(rows: list[dict], generator: ModuleType) -> None:
    named = 0
    for row in rows:
        words = set(contents(row, "user")[-1].lower().replace(".", "").replace("?", "").replace(",", "").split())
        if words & set(generator.UNKNOWN_ROOMS):
            named += 1
            assert contents(row, "assistant")[-1] == '{"tool":"none","reason":"no_such_room"}', row["id"]
    assert named > 30


def test_every_argument_of_a_held_out_call_is_trained_in_other_pairs(rows: list[dict]) -> None:
    arguments = {split: set() for split in ("train", *HELD_OUT_SPLITS)}
    for row in rows:
        for answer in contents(row, "assistant"):
            arguments[split_of(row)].update(item for call in calls_of(answer) for item in call.items())
    assert {key for key, _ in arguments["train"]} >= {"tool", "room", "time", "minutes", "value"}
    for split in HELD_OUT_SPLITS:
        assert arguments[split] <= arguments["train"]


# --- The broken lines ---------------------------------------------------------------------------------------


def test_broken_lines_mix_bad_rows_and_two_good_ones(rows: list[dict]) -> None:
    lines = (DEMO / "broken.jsonl").read_bytes().split(b"\n")[:-1]
    unreadable = []
    parsed = {}
    for number, line in enumerate(lines, 1):
        try:
            parsed[number] = json.loads(line.decode("utf-8"))
        except ValueError as error:
            unreadable.append((number, type(error).__name__))
    assert unreadable == [(2, "JSONDecodeError"), (8, "UnicodeDecodeError")]
    assert parsed[3]["messages"][-1]["role"] == "user"
    assert parsed[4]["messages"][0]["content"] == ""
    assert set(parsed[5]) - {"id", "messages", "meta"} == {"note"}
    assert parsed[6]["id"] == 7
    assert [message["role"] for message in parsed[7]["messages"]] == ["user", "user", "assistant"]
    assert parsed[10]["id"] == parsed[1]["id"]
    assert parsed[10]["messages"] != parsed[1]["messages"]
    assert any(row["messages"] == parsed[11]["messages"] for row in rows)
    assert "<|im_end|>" in parsed[12]["messages"][0]["content"]
    assert len(lines) == 12


def test_the_good_rows_among_the_broken_ones_are_new_training_rows(rows: list[dict]) -> None:
    lines = (DEMO / "broken.jsonl").read_bytes().split(b"\n")
    known = {tuple(map(words_of, contents(row, "user"))) for row in rows}
    trained = pairs_in([row for row in rows if split_of(row) == "train"])
    for row in (json.loads(lines[0]), json.loads(lines[8])):
        assert split_of(row) == "train"
        assert tuple(map(words_of, contents(row, "user"))) not in known
        assert pairs_in([row]) <= trained
