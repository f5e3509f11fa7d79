"""report.html in a real browser: it asks for nothing, runs nothing, and fits its window."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from tests.browser.chromium import PROGRAM, Page
from tests.browser.served import ATTACKS, Served
from tests.helpers import make_config

from solotune.artifacts.files import FileRecord
from solotune.artifacts.splits_dir import NearDuplicates, NearPair, SplitsManifest
from solotune.config.schema import DatasetConfig
from solotune.console import safe
from solotune.dataset import report
from solotune.dataset.reasons import REASONS
from solotune.dataset.token_lengths import TokenLengths

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium"),
]


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


def test_the_harness_would_notice_an_attack_that_works(page: Page, served: Served) -> None:
    """Without it the next test couldn't fail."""
    (served.folder / "bad.html").write_text(
        f"<!DOCTYPE html><title>x</title><body>{ATTACKS[0]}{ATTACKS[1]}<script>console.log('seen')</script>"
    )
    page.load(f"{served.url}/bad.html")
    assert page.value("document.title") == "pwned"
    assert "/leak" in served.paths
    assert len(page.complaints()) >= 1
    assert f"{served.url}/leak" in page.requests()


@pytest.mark.parametrize("attack", [*ATTACKS, " ".join(ATTACKS)], ids=[*map(str, range(len(ATTACKS))), "all"])
def test_hostile_texts_are_shown_and_nothing_comes_of_them(page: Page, served: Served, attack: str) -> None:
    write_report(served.folder, attack)
    page.load(f"{served.url}/report.html")
    assert page.complaints() == [], "not even a rule of the page had to stop anything"
    assert page.requests() == [f"{served.url}/report.html"]
    assert served.paths == ["/report.html"]
    assert page.value("document.title").endswith(": the rows")
    forbidden = "script, img, iframe, form, input, base, link, object, embed, svg svg, [onload], [onerror], [onfocus]"
    assert page.value(f"document.querySelectorAll('{forbidden}').length") == 0
    assert page.value("[...document.links].every(a => a.hash && a.pathname === location.pathname)")
    assert page.value("document.body.innerText").count(safe(attack)[:20]) > 10


def test_a_script_that_got_in_all_the_same_wouldnt_run(page: Page, served: Served) -> None:
    path = write_report(served.folder, "x")
    path.write_text(path.read_text().replace("</main>", f"{ATTACKS[0]}{ATTACKS[1]}</main>"))
    page.load(f"{served.url}/report.html")
    assert page.value("document.title") == "x: the rows"
    assert served.paths == ["/report.html"]


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
@pytest.mark.parametrize(
    "text", ["data/raw/rows.jsonl", "x" * 400, " ".join(ATTACKS)], ids=["usual", "long", "hostile"]
)
def test_the_page_never_scrolls_sideways(page: Page, served: Served, width: int, text: str) -> None:
    write_report(served.folder, text)
    page.view(width)
    page.load(f"{served.url}/report.html")
    assert page.value("document.documentElement.scrollWidth") <= width


def test_dark_and_print_are_looks_of_their_own(page: Page, served: Served) -> None:
    write_report(served.folder, "x")
    page.load(f"{served.url}/report.html")
    grounds = []
    for dark, media in ((False, ""), (True, ""), (True, "print")):
        page.view(1280, dark=dark, media=media)
        grounds.append(page.value("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(21, 24, 28)", "rgb(255, 255, 255)"]


def test_a_reader_of_screens_finds_headings_tables_and_charts(page: Page, served: Served) -> None:
    write_report(served.folder, "x")
    page.load(f"{served.url}/report.html")
    levels = page.value("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.value("document.documentElement.lang") == "en"
    assert page.value("[...document.querySelectorAll('table')].every(t => t.querySelector('thead th[scope=col]'))")
    charts = page.value("[...document.querySelectorAll('svg')].map(s => s.getAttribute('aria-label'))")
    assert len(charts) == 3
    assert all("median 300" in label for label in charts)
