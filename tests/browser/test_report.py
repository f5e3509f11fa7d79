"""report.html in a real browser: it asks for nothing, runs nothing, and fits its window."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Page, expect
from tests.browser.looks import wide
from tests.browser.served import ATTACKS, Served
from tests.helpers import make_config

from solotune.artifacts.files import FileRecord
from solotune.artifacts.splits_dir import NearDuplicates, NearPair, SplitsManifest
from solotune.config.schema import DatasetConfig
from solotune.console import safe
from solotune.dataset import report
from solotune.dataset.reasons import REASONS
from solotune.dataset.token_lengths import TokenLengths

pytestmark = pytest.mark.browser


def write_report(folder: Path, text: str) -> Path:
    """A report whose every text is `text`."""
    quarantine = folder / "quarantine.jsonl"
    lines = [
        {"file": text, "line": n, "offset": 0, "code": code, "message": text, "raw": text}
        for code in (*REASONS, text)
        for n in range(3)
    ]
    quarantine.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    lengths = TokenLengths(
        300, 900, 1200, 0.25, 3, (text, text), tuple((n, n % 7 + 1) for n in range(5, 1200, 3)), ((text, 1),)
    )
    config = make_config(model={"name_or_path": text, "source": "folder"}, training={"max_length": 1024})
    manifest = SplitsManifest(
        schema_version=1,
        config={
            **DatasetConfig(raw_files=(text,)).model_dump(mode="json"),
            "splits_dir": text,
            "columns": {text: text},
            "hub": {"name": text, "revision": text},
        },
        inputs={text: FileRecord(2048, "0123456789abcdef" * 4)},
        outputs={},
        rows_in=1_234_567,
        rows_kept=1_234_567,
        rows_quarantined=0,
        rows_duplicate=0,
        rows={"train": 1_234_567, "val": 0, "test": 0},
        reasons=dict.fromkeys((*REASONS, text), 1000),
        tags={text: {"train": 1_234_567, "val": 0, "test": 0}},
        solotune="0.1.0",
        notes={text: 1},
        unread_columns={text: 1},
        rows_by_file={text: 1_234_567},
        near=NearDuplicates(0.8, {"val": 1, "test": 1}, FileRecord(0, "0" * 64)),
    )
    near_duplicates = folder / "near_duplicates.jsonl"
    near_duplicates.write_bytes(msgspec.json.encode(NearPair(text, "val", text, "train", 1.0)) + b"\n")
    path = folder / "report.html"
    path.write_text(
        report.of(manifest, quarantine, near_duplicates, config, dict.fromkeys(("train", "val", "test"), lengths))
    )
    return path


def test_the_harness_would_notice_an_attack_that_works(
    page: Page, served: Served, complaints: list[str], requests: list[str]
) -> None:
    """Without it the next test couldn't fail."""
    (served.folder / "bad.html").write_text(
        f"<!DOCTYPE html><title>x</title><body>{ATTACKS[0]}{ATTACKS[1]}<script>console.log('seen'); nonesuch()</script>"
    )
    page.goto(f"{served.url}/bad.html", wait_until="networkidle")
    expect(page).to_have_title("pwned")
    assert "/leak" in served.paths
    assert "seen" in complaints
    assert "nonesuch is not defined" in complaints
    assert f"{served.url}/leak" in requests


@pytest.mark.parametrize("attack", [*ATTACKS, " ".join(ATTACKS)], ids=[*map(str, range(len(ATTACKS))), "all"])
def test_hostile_texts_are_shown_and_nothing_comes_of_them(
    page: Page, served: Served, complaints: list[str], requests: list[str], attack: str
) -> None:
    write_report(served.folder, attack)
    page.goto(f"{served.url}/report.html", wait_until="networkidle")
    assert complaints == [], "not even a rule of the page had to stop anything"
    assert requests == [f"{served.url}/report.html"]
    assert served.paths == ["/report.html"]
    assert page.title().endswith(": the rows")
    forbidden = "script, img, iframe, form, input, base, link, object, embed, svg svg, [onload], [onerror], [onfocus]"
    expect(page.locator(forbidden)).to_have_count(0)
    assert page.evaluate("[...document.links].every(a => a.hash && a.pathname === location.pathname)")
    assert page.locator("body").inner_text().count(safe(attack)[:20]) > 10


def test_a_script_that_got_in_all_the_same_wouldnt_run(page: Page, served: Served) -> None:
    path = write_report(served.folder, "x")
    path.write_text(path.read_text().replace("</main>", f"{ATTACKS[0]}{ATTACKS[1]}</main>"))
    page.goto(f"{served.url}/report.html", wait_until="networkidle")
    expect(page).to_have_title("x: the rows")
    assert served.paths == ["/report.html"]


@pytest.mark.parametrize("look", [wide(320), wide(400), wide(768), wide(1280)], ids=["320", "400", "768", "1280"])
@pytest.mark.parametrize(
    "text", ["data/raw/rows.jsonl", "x" * 400, " ".join(ATTACKS)], ids=["usual", "long", "hostile"]
)
def test_the_page_never_scrolls_sideways(page: Page, served: Served, look: dict[str, Any], text: str) -> None:
    write_report(served.folder, text)
    page.goto(f"{served.url}/report.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]


def test_dark_and_print_are_looks_of_their_own(page: Page, served: Served) -> None:
    write_report(served.folder, "x")
    page.goto(f"{served.url}/report.html")
    body = page.locator("body")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    page.emulate_media(color_scheme="dark")
    expect(body).to_have_css("background-color", "rgb(21, 24, 28)")
    page.emulate_media(color_scheme="dark", media="print")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")


def test_a_reader_of_screens_finds_headings_tables_and_charts(page: Page, served: Served) -> None:
    write_report(served.folder, "x")
    page.goto(f"{served.url}/report.html")
    levels = page.get_by_role("heading").evaluate_all("all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    expect(page.locator("html")).to_have_attribute("lang", "en")
    tables = page.get_by_role("table")
    assert tables.evaluate_all("all => all.every(t => t.querySelector('thead th[scope=col]'))")
    expect(page.get_by_role("img", name="median 300")).to_have_count(3)
    expect(page.locator("svg")).to_have_count(3)
