"""The cache of tokenised rows: found again only by what they were made of, and never believed when damaged."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from tests.helpers import chat

from solotune.artifacts.model_dir import ModelDir
from solotune.modeling import token_cache
from solotune.modeling.chat import ChatEncoder
from solotune.modeling.template import ChatTemplate
from solotune.modeling.token_cache import cache_root, prune, tokenised
from solotune.modeling.tokenised import TokenisedRows

CHATS = [
    chat("turn on", "done"),
    chat("and off", "ok, off", "now?", "dark", "why", "because"),
    chat("x", "y", system="be brief"),
]


class Split:
    """A split file, and how often its rows were asked for."""

    def __init__(self, folder: Path, text: str = "rows", chats: Any = CHATS) -> None:
        self.path = folder / "train.jsonl"
        self.path.write_text(text)
        self.chats = chats
        self.asked = 0

    def tokenised(self, encoder: ChatEncoder) -> TokenisedRows:
        return tokenised(self.path, self._rows, encoder)

    def _rows(self) -> Any:
        self.asked += 1
        return iter(self.chats)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOLOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def test_rows_are_what_the_encoder_gives_and_are_encoded_once(tmp_path: Path, encoder: ChatEncoder) -> None:
    split = Split(tmp_path)
    for _ in range(2):
        rows = split.tokenised(encoder)
        assert list(rows) == [encoder.encode(c) for c in CHATS]
        assert rows.lengths.tolist() == [len(encoder.encode(c).input_ids) for c in CHATS]
        assert rows.trained_tokens == sum(encoder.encode(c).trained_tokens for c in CHATS)
        assert [rows.prompt(i) for i in range(3)] == [encoder.encode_prompt(c[:-1]) for c in CHATS]
    assert split.asked == 1


def test_other_rows_another_template_or_tokenizer_are_another_file(
    tmp_path: Path, encoder: ChatEncoder, tiny_tokenizer: Path
) -> None:
    Split(tmp_path).tokenised(encoder)
    other_rows = Split(tmp_path, "other")
    other_rows.tokenised(encoder)
    other_template = ChatEncoder.open(ModelDir(tiny_tokenizer))
    other_template.template = ChatTemplate("{# another #}" + encoder.template.source, {})
    again = Split(tmp_path)
    again.tokenised(other_template)
    tokenizer = json.loads((tiny_tokenizer / "tokenizer.json").read_text())
    tokenizer["added_tokens"].pop(0)
    other_tokenizer = Split(tmp_path)
    other_tokenizer.tokenised(ChatEncoder(tokenizer, encoder.template, frozenset(), 0))
    assert [other_rows.asked, again.asked, other_tokenizer.asked] == [1, 1, 1]


def test_other_code_is_another_file(tmp_path: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(tmp_path)
    split.tokenised(encoder)
    edited = tmp_path / "token_cache.py"
    edited.write_text("# edited")
    monkeypatch.setattr(token_cache, "__file__", str(edited))
    split.tokenised(encoder)
    assert split.asked == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "renamed"])
def test_a_damaged_or_foreign_file_is_made_anew_with_a_warning(
    tmp_path: Path, encoder: ChatEncoder, cache: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    split = Split(tmp_path)
    whole = list(split.tokenised(encoder))
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    if damage == "cut":
        del data[-5:]
    elif damage == "flipped":
        data[1030] ^= 1
    elif damage == "empty":
        data.clear()
    elif damage == "foreign":
        data = bytearray(b"PK\x03\x04" * 600)
    else:
        Split(tmp_path, "other", CHATS[:1]).tokenised(encoder)
        (other,) = set(cache.iterdir()) - {file}
        data = bytearray(other.read_bytes())
        split = Split(tmp_path)
    file.write_bytes(data)
    split.asked = 0
    assert list(split.tokenised(encoder)) == whole
    assert split.asked == 1
    assert "is damaged" in capsys.readouterr().err
    assert list(split.tokenised(encoder)) == whole
    assert split.asked == 1


def test_a_writer_that_dies_leaves_nothing_that_looks_whole(tmp_path: Path, encoder: ChatEncoder, cache: Path) -> None:
    def dies() -> Any:
        yield CHATS[0]
        raise KeyboardInterrupt

    split = Split(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tokenised(split.path, dies, encoder)
    assert list(cache.iterdir()) == []
    assert list(split.tokenised(encoder)) == [encoder.encode(c) for c in CHATS]


def test_a_folder_that_cant_be_written_costs_a_warning_not_the_run(
    tmp_path: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SOLOTUNE_CACHE", str(tmp_path / "file"))
    assert list(Split(tmp_path).tokenised(encoder)) == [encoder.encode(c) for c in CHATS]
    assert "set SOLOTUNE_CACHE to a folder" in capsys.readouterr().err


def test_a_split_without_rows_has_no_tokens(tmp_path: Path, encoder: ChatEncoder) -> None:
    split = Split(tmp_path, "", [])
    for _ in range(2):
        rows = split.tokenised(encoder)
        assert (len(rows), rows.tokens_in_all, rows.trained_tokens) == (0, 0, 0)


def test_the_file_is_safetensors_and_the_same_every_time(tmp_path: Path, encoder: ChatEncoder, cache: Path) -> None:
    Split(tmp_path).tokenised(encoder)
    (file,) = cache.iterdir()
    assert load_file(file)["ids"].tolist() == [i for c in CHATS for i in encoder.encode(c).input_ids]
    first = hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()
    os.environ["RAYON_NUM_THREADS"] = "1"
    Split(tmp_path).tokenised(encoder)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == first


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    now = time.time()
    files = [tmp_path / f"{name}.safetensors" for name in ("old", "older", "new")]
    for file, age in zip(files, (100, 200, 0), strict=True):
        file.write_bytes(bytes(10))
        os.utime(file, (now - age, now - age))
    left = tmp_path / ".staged-x.safetensors.1"
    left.write_bytes(b"")
    os.utime(left, (now - 1e6, now - 1e6))
    (tmp_path / "somebody's").write_bytes(bytes(100))
    prune(tmp_path, keep=files[2], limit=25)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "new.safetensors",
        "old.safetensors",
        "somebody's",
    ]
    prune(tmp_path, keep=files[2], limit=5)
    assert files[2].exists()
    assert not files[0].exists()


def test_being_used_keeps_a_file_young(tmp_path: Path, encoder: ChatEncoder, cache: Path) -> None:
    split = Split(tmp_path)
    split.tokenised(encoder)
    (file,) = cache.iterdir()
    os.utime(file, (1, 1))
    split.tokenised(encoder)
    assert file.stat().st_mtime > 1e9


def test_what_cant_be_read_back_is_no_failure(
    tmp_path: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    was_read = token_cache._map
    faults = iter([OSError(5, "Input/output error")])

    def read(file: Any, key: str) -> TokenisedRows:
        for fault in faults:
            raise fault
        return was_read(file, key)

    monkeypatch.setattr(token_cache, "_map", read)
    assert list(Split(tmp_path).tokenised(encoder)) == [encoder.encode(c) for c in CHATS]
    assert "is damaged ([Errno 5] Input/output error)" in capsys.readouterr().err


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("SOLOTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_root() == Path("/cache/solotune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/nobody")
    assert cache_root() == Path("/nobody/.cache/solotune")


def test_a_view_shows_some_rows_and_of_some_the_beginning(tmp_path: Path, encoder: ChatEncoder) -> None:
    rows = Split(tmp_path).tokenised(encoder)
    first_end = rows.spans(1)[0][1]
    view = rows.keep({0: 0, 1: first_end + 1})
    assert view.rows.tolist() == [1, 2]
    assert view[0].input_ids == rows[1].input_ids[: first_end + 1]
    assert view[0].labels == rows[1].labels[: first_end + 1]
    assert view.trained_tokens == view[0].trained_tokens + view[1].trained_tokens
    assert list(rows[1:]) == [rows[1], rows[2]]
    assert view.keep({})[0] == view[0]
