"""report.html: the ledger's own figures, and nothing in it that a row could do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.helpers import make_config

from solotune.artifacts.files import FileRecord
from solotune.artifacts.splits_dir import NearDuplicates, NearPair, SplitsManifest
from solotune.config.schema import DatasetConfig
from solotune.dataset import report
from solotune.dataset.left_out import first_of_each
from solotune.dataset.reasons import REASONS
from solotune.dataset.report.histogram import WIDTH, histograms
from solotune.dataset.token_lengths import TokenLengths

HOSTILE = (
    "\"'><script>document.title='pwned'</script><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\x00\u202e&amp;</title>"
)
LENGTHS = TokenLengths(5, 9, 12, 0.25, 2, ("long-1", "long-2"), ((4, 3), (5, 6), (12, 1)))


def manifest(**changes: Any) -> SplitsManifest:
    made = SplitsManifest(
        schema_version=1,
        config=DatasetConfig(raw_files=("data/raw/a.jsonl",)).model_dump(mode="json"),
        inputs={"data/raw/a.jsonl": FileRecord(2048, "0123456789abcdef" * 4)},
        outputs={},
        rows_in=1234,
        rows_kept=1200,
        rows_quarantined=4,
        rows_duplicate=30,
        rows={"train": 1000, "val": 80, "test": 120},
        reasons={"invalid_json": 3, "empty_content": 1},
        tags={"greeting": {"train": 7, "val": 2, "test": 1}},
        solotune="0.1.0",
        notes={"blank_line": 5},
        unread_columns={"colour": 9},
        rows_by_file={"data/raw/a.jsonl": 1234},
    )
    return msgspec.structs.replace(made, **changes)


def quarantine(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "quarantine.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def left_out(line: int, code: str = "invalid_json", raw: str = '{"id": 1', **more: Any) -> dict[str, Any]:
    what = {"file": "data/raw/a.jsonl", "line": line, "offset": 0, "code": code, "message": f"line: broken at {line}"}
    return {**what, **({} if "raw_base64" in more else {"raw": raw}), **more}


def page(
    folder: Path,
    made: SplitsManifest | None = None,
    lines: list[dict[str, Any]] | None = None,
    pairs: Sequence[NearPair] = (),
) -> str:
    return report.of(made or manifest(), quarantine(folder, lines or []), near_pairs(folder, pairs))


def near_pairs(folder: Path, pairs: Sequence[NearPair] = ()) -> Path:
    path = folder / "near_duplicates.jsonl"
    path.write_bytes(msgspec.json.Encoder().encode_lines(pairs))
    return path


def with_lengths(folder: Path, by_split: dict[str, TokenLengths], **training: Any) -> str:
    config = make_config(training={"max_length": 16, **training})
    return report.of(manifest(), quarantine(folder, []), near_pairs(folder), config, by_split)


class Seen(HTMLParser):
    """Text, tags and attributes as a browser would take them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._skip = False
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._skip = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data + " "


def test_the_ledger_adds_up_on_the_page(tmp_path: Path) -> None:
    text = Seen(page(tmp_path)).text
    assert "Rows in 1,234 = kept 1,200 + duplicates 30 + quarantined 4" in text
    assert "invalid_json 3 0.2%" in text
    assert text.index("invalid_json") < text.index("empty_content"), "the most frequent reason comes first"
    assert "train 1,000 83.3% val 80 6.7% test 120 10.0%" in text
    assert "greeting 7 2 1 10" in text
    assert "data/raw/a.jsonl 1,234 2.0 KiB 0123456789ab " in text
    assert "blank lines were passed over (5)" in text
    assert "doesn't read: colour (9)" in text


def test_three_rows_of_each_reason_are_shown_and_the_first_place_in_the_table(tmp_path: Path) -> None:
    lines = [left_out(n, raw=f"row {n}!") for n in (7, 8, 9, 10)] + [left_out(2, "empty_content", "blank!")]
    text = Seen(page(tmp_path, lines=lines)).text
    assert all(f"a.jsonl:{n} line: broken at {n} row {n}!" in text for n in (7, 8, 9))
    assert "row 10!" not in text
    assert "invalid_json 3 0.2% data/raw/a.jsonl:7" in text
    assert "empty_content 1 0.1% data/raw/a.jsonl:2" in text


def test_bytes_that_are_no_text_are_shown_as_escapes(tmp_path: Path) -> None:
    text = Seen(page(tmp_path, lines=[left_out(1, raw_base64=b"caf\xe9 \xff")])).text
    assert r"caf\xe9 \xff" in text


def test_without_a_base_model_the_page_says_that_lengths_arent_known(tmp_path: Path) -> None:
    text = Seen(page(tmp_path)).text
    assert "the base model hasn't been fetched. Run fetch , then prepare again" in text
    assert "Median" not in text


def test_with_a_base_model_the_lengths_are_there(tmp_path: Path) -> None:
    html = with_lengths(tmp_path, {"train": LENGTHS, "val": TokenLengths(0, 0, 0, 0.0, 0, ())})
    text = Seen(html).text
    assert "hasn't been fetched" not in text
    assert "train 5 9 12 25.0% 2" in text
    assert "2 rows of train are longer than training.max_length (16 tokens)" in text
    assert "in train (2): long-1 , long-2" in text
    assert html.count("<svg") == 1, "a split without rows has no chart"
    assert "5 tokens: 6 rows" in text


def test_near_duplicates_are_told_where_somebody_looked_for_them(tmp_path: Path) -> None:
    assert "Near-duplicates" not in Seen(page(tmp_path)).text
    near = NearDuplicates(0.8, {"val": 3, "test": 1200}, FileRecord(0, "0" * 64), 1, 9)
    pairs = [NearPair("t-1", "test", "r-7", "train", 0.9166), NearPair(HOSTILE, "val", "r-8", "train", 1)]
    text = Seen(page(tmp_path, manifest(near=near), pairs=pairs)).text
    assert "word 5-grams 0.8 or more): 3 of val, 1,200 of test. What is measured on such" in text
    assert "test t-1 train r-7 0.92" in text
    assert "The first 2 of them. prepare --show ID prints a row" in text
    assert "1 cluster of near-duplicates (9 rows) was kept on one side" in text
    none = NearDuplicates(0.8, {"val": 0, "test": 0}, FileRecord(0, "0" * 64))
    assert Seen(page(tmp_path, manifest(near=none))).text.count("0 of val, 0 of test. Token lengths") == 1


def test_the_same_splits_give_the_same_bytes(tmp_path: Path) -> None:
    lines = [left_out(1), left_out(2, "empty_content")]
    made = manifest()
    turned = manifest(reasons=dict(reversed(made.reasons.items())), tags=dict(reversed(made.tags.items())))
    assert page(tmp_path, made, lines) == page(tmp_path, turned, lines)


def hostile_page(folder: Path) -> str:
    """Everything that comes from rows, files or config is hostile, and there is much of it."""
    long = HOSTILE * 50
    made = manifest(
        config={**manifest().config, "columns": {long: long}, "raw_files": [long] * 50, "splits_dir": long}
        | {"hub": {"name": long, "revision": long}},
        inputs={f"{i}{long}": FileRecord(1, "0" * 64) for i in range(500)},
        rows_by_file={f"{i}{long}": 1 for i in range(500)},
        reasons=dict.fromkeys(REASONS, 10) | {long: 1},
        tags={f"{i}{long}": {"train": 1, "val": 0, "test": 0} for i in range(500)},
        notes={long: 1},
        unread_columns={f"{i}{long}": 1 for i in range(500)},
        near=NearDuplicates(0.8, {"val": 1, "test": 1}, FileRecord(0, "0" * 64)),
    )
    lines = [left_out(n, code, long, file=long, message=long) for code in [*REASONS, long] for n in range(10)]
    config = make_config(model={"name_or_path": long, "source": "folder"}, training={"max_length": 16})
    lengths = dict.fromkeys(
        ("train", "val", "test"), TokenLengths(5, 9, 12, 0.25, 5, (long,) * 5, LENGTHS.by_length, ((long, 1),))
    )
    pairs = near_pairs(folder, [NearPair(long, "val", long, "train", 1.0)] * 20)
    return report.of(made, quarantine(folder, lines), pairs, config, lengths)


def test_nothing_in_a_row_becomes_markup(tmp_path: Path) -> None:
    seen = Seen(hostile_page(tmp_path))
    assert not {"script", "img", "iframe", "object", "embed", "link", "form", "base"} & set(seen.tags)
    bars_and_limits = seen.tags.count("rect") + 3
    assert seen.tags.count("title") == 1 + bars_and_limits, "the page's own, and what bars and limits say"
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "srcset", "style")]
    assert all(value.startswith("#") for name, value in seen.attributes if name == "href")
    assert "<script>" in seen.text, "shown as text"
    assert "{{ 7*7 }}" in seen.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", seen.text), "escapes and bidi marks are spelled out"


def test_the_page_stays_small_whatever_comes(tmp_path: Path) -> None:
    assert len(hostile_page(tmp_path).encode()) < 200_000


def test_the_browser_is_told_to_load_and_run_nothing(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "default-src 'none'; style-src 'unsafe-inline'" in html
    assert html.index("Content-Security-Policy") < html.index("<title")
    assert not re.search(r"https?://|@import|url\(", html)


def test_every_table_says_what_its_columns_are(tmp_path: Path) -> None:
    html = with_lengths(tmp_path, {"train": LENGTHS})
    tables = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert len(tables) == 6
    for table in tables:
        assert '<th scope="col"' in table
        assert '<th scope="row"' in table
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:aria-labelledby="|href="#)([^"]+)"', html)) <= set(ids)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_in_light_and_in_dark(tmp_path: Path) -> None:
    """WCAG 2.1: 4.5 for text, 3 for what is drawn."""
    palettes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", page(tmp_path), re.DOTALL)
    ]
    assert [len(p) for p in palettes[:2]] == [11, 11]
    for palette in palettes[:2]:
        for ground in ("page", "band", "warn"):
            for text in ("text", "quiet", "kept"):
                assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
        for drawn in ("bar", "left-out", "duplicate", "warn-line"):
            assert contrast(palette[drawn], palette["page"]) >= 3, drawn


def test_a_histogram_holds_every_row_and_keeps_inside_its_frame() -> None:
    lengths = {"train": [(n, n) for n in range(1, 700)], "val": [(3, 2), (90_000, 1)]}
    found = histograms(lengths, limit=512)
    for split, chart in found.items():
        rows = sum(int(re.search(r": ([\d,]+) row", bar.says)[1].replace(",", "")) for bar in chart.bars)  # type: ignore[index]
        assert rows == sum(n for _, n in lengths[split])
        assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH and bar.y >= chart.top for bar in chart.bars)
        assert all(abs(bar.y + bar.height - chart.bottom) < 0.02 for bar in chart.bars)
    assert found["train"].ticks == found["val"].ticks


def test_one_very_long_row_doesnt_squeeze_all_others_into_one_bar() -> None:
    chart = histograms({"train": [(n, 10) for n in range(1, 101)] + [(90_000, 1)]}, limit=64)["train"]
    assert len(chart.bars) > 15
    assert chart.is_cut
    assert chart.bars[-1].says.endswith("to 90,000 tokens: 1 row")


@pytest.mark.parametrize(("limit", "shown"), [(12, True), (16, True), (17, False), (2048, False)])
def test_the_limit_is_drawn_where_the_axis_reaches_it(limit: int, shown: bool) -> None:
    chart = histograms({"train": [(4, 3), (12, 1)]}, limit)["train"]
    assert chart.ticks[-1][1] == "16"
    assert (chart.limit_x is not None) == shown
    assert chart.limit_x is None or chart.limit_x == WIDTH * limit / 16


def test_the_first_rows_of_each_reason_are_read_back(tmp_path: Path) -> None:
    lines = [left_out(n, "invalid_json" if n % 3 else "empty_content") for n in range(1, 10)]
    found = first_of_each(quarantine(tmp_path, lines), 2)
    assert {code: [row.line for row in some] for code, some in found.items()} == {
        "invalid_json": [1, 2],
        "empty_content": [3, 6],
    }
    assert found["invalid_json"][0].place == "data/raw/a.jsonl:1"
