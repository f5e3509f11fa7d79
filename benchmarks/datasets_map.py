"""What `prepare` checks, as a function for `datasets.map`: `datasets_map.py ROWS.jsonl CACHE PROCESSES`.

Written as one would for the purpose: the same rules on roles, contents, characters, control tokens and ids, the same
digest for duplicates and the same draw of a split. What `load_dataset` has lost by then (duplicate and unknown keys,
which row was bad) it can't check. Ids and duplicates are compared at the end, for a `map` may have several processes.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from typing import Any

BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
BAD_IN_ID = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
INVISIBLE = re.compile("[\u00ad\u200b\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
CONTROL_TOKEN = re.compile(r"<\|[\w./:-]{1,64}\|>|<｜[^｜<>\n]{1,64}｜>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")


def checked(row: dict[str, Any]) -> dict[str, Any]:
    """The reason to leave a row out or "", what is to be noted, its digest, its id as a file name and its split."""
    messages = row["messages"]
    return {
        "problem": problem(row),
        "note": note("\0".join(message["content"] for message in messages)),
        "digest": digest(messages),
        "folded_id": unicodedata.normalize("NFKC", row["id"]).casefold(),
        "split": side(messages),
    }


def note(text: str) -> str:
    if text.isascii():
        return ""
    if not unicodedata.is_normalized("NFC", text):
        return "not_nfc"
    return "invisible_character" if INVISIBLE.search(text) else ""


def problem(row: dict[str, Any]) -> str:  # noqa: PLR0911
    row_id, messages = row["id"], row["messages"]
    if not isinstance(row_id, str) or not 1 <= len(row_id) <= 200 or BAD_IN_ID.search(row_id):
        return "bad_id"
    if not messages:
        return "empty_messages"
    due = "user"
    for i, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == due:
            due = "assistant" if role == "user" else "user"
        elif role != "system" or i > 0:
            return "bad_role_order"
        if not isinstance(content, str) or not content.strip():
            return "empty_content"
        if BAD_CHARACTER.search(content):
            return "control_character"
        if CONTROL_TOKEN.search(content):
            return "control_token"
    return "" if messages[-1]["role"] == "assistant" else "last_not_assistant"


def digest(messages: list[dict[str, str]]) -> str:
    said = unicodedata.normalize("NFC", "\0".join(message["content"].strip() for message in messages))
    return hashlib.sha256(said.encode()).hexdigest()


def side(messages: list[dict[str, str]]) -> str:
    first = messages[: 2 if messages[0]["role"] == "system" else 1]
    key = " ".join(unicodedata.normalize("NFKC", "\0".join(m["content"] for m in first)).casefold().split())
    drawn = int.from_bytes(hashlib.sha256(f"0\0{key}".encode()).digest()[:8], "big") / 2**64
    return "test" if drawn < 0.05 else "val" if drawn < 0.1 else "train"


def main(raw: str, cache: str, processes: int) -> None:
    """Loads, maps and compares; prints what became of the rows."""
    import datasets

    rows = datasets.load_dataset("json", data_files=raw, split="train", cache_dir=cache)
    rows = rows.map(checked, num_proc=processes if processes > 1 else None)
    bad = sum(map(bool, rows["problem"]))
    duplicates = len(rows) - len(set(rows["digest"]))
    ids = [len(rows) - len(set(rows[column])) for column in ("id", "folded_id")]
    print(f"{len(rows):,} rows: {bad:,} bad, {duplicates:,} duplicates, {ids[0]:,} ids twice, {ids[1]:,} when folded")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
