"""The page of all runs in a real browser: sorted, searched, compared, and safe from what runs are called."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from tests.browser import axe
from tests.browser.chromium import PROGRAM, Page
from tests.browser.served import ATTACKS, Served
from tests.report.demo import make_hostile_run, make_run

from solotune.report import write_index, write_run_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium"),
]

RUNS = Path("runs")
FIRST, SECOND, THIRD = "20261123-214205-home-a2dbe2", "20261124-081502-home-b00b1e", "20261124-101502-lora-c0ffee"


@pytest.fixture
def url(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three runs and one that can't be read, in a page that is open."""
    monkeypatch.chdir(served.folder)
    write_run_page(make_run(RUNS, FIRST, rows=40))
    training = {"max_length": 1024, "eval_steps": 50, "learning_rate": 1e-4}
    make_run(RUNS, SECOND, seed=3, rows=40, skill=0.6, training=training, exported=False)
    make_run(RUNS, THIRD, seed=4, rows=30, steps=300, quantization=None, gpu=False, evaluated=False, exported=False)
    (RUNS / "20261125-121502-broken-ababab").mkdir()
    write_index(RUNS)
    page.view(1280)
    address = f"{served.url}/runs/index.html"
    page.load(address)
    return address


def order(page: Page) -> list[str]:
    found: list[str] = page.value(
        "[...document.querySelectorAll('#runs tbody tr')].filter(r => !r.hidden).map(r => r.dataset.run.slice(-6))"
    )
    return found


def sort_by(page: Page, key: str) -> None:
    page.value(f"document.querySelector('#runs th[data-key={json.dumps(key)}] button').click()")


def tick(page: Page, *runs: str) -> None:
    for run in runs:
        page.value(f"document.querySelector('tr[data-run={json.dumps(run)}] .pick').click()")


def rows_of(page: Page, table: str) -> dict[str, list[str]]:
    lines = page.value(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return {line[0]: line[1:] for line in lines}


def test_all_runs_are_there_the_newest_first(page: Page, url: str) -> None:
    assert order(page) == ["ababab", "c0ffee", "b00b1e", "a2dbe2"]
    assert page.complaints() == []
    assert page.requests() == [url]
    states = page.value("[...document.querySelectorAll('#runs td[class*=state]')].map(c => c.textContent)")
    assert states == ["damaged", "trained", "evaluated", "exported"]
    links = page.value("[...document.querySelectorAll('#runs a')].map(a => a.getAttribute('href'))")
    assert links == [f"{FIRST}/report.html"], "a run without a page has no link"


def test_any_column_sorts_and_what_is_missing_goes_last(page: Page, url: str) -> None:
    sort_by(page, "loss")
    assert order(page) == ["a2dbe2", "b00b1e", "ababab", "c0ffee"]
    assert page.value("document.querySelector('[data-key=loss]').ariaSort") == "ascending"
    sort_by(page, "loss")
    assert order(page)[:2] == ["b00b1e", "a2dbe2"]
    sort_by(page, "metric exact_match")
    assert order(page)[:2] == ["b00b1e", "a2dbe2"]
    assert page.value("document.querySelectorAll('#runs [aria-sort]').length") == 1


def test_a_search_leaves_the_runs_that_hold_the_text(page: Page, url: str) -> None:
    page.value("document.querySelector('#run-controls input').focus()")
    page.type("LORA")
    assert order(page) == ["c0ffee"]
    assert page.value("document.getElementById('run-status').textContent") == "1 of 4 runs"


def test_two_runs_are_laid_over_each_other(page: Page, url: str) -> None:
    tick(page, FIRST)
    assert page.value("document.getElementById('comparison').hidden")
    tick(page, SECOND)
    assert not page.value("document.getElementById('comparison').hidden")
    assert page.value("document.querySelectorAll('#compare-loss path.curve').length") == 2
    assert page.value("document.querySelectorAll('#compare-val path.curve').length") == 2
    assert rows_of(page, "compare-settings") == {"training.learning_rate": ["0.0001", "0.0002"]}
    measured = rows_of(page, "compare-measures")
    assert measured["held-out loss"][1] < measured["held-out loss"][0], "the newer one stands left, and is worse"
    assert page.value("document.getElementById('other-rows').hidden")
    legend = page.value("[...document.querySelectorAll('#compare-legend li')].map(l => l.textContent)")
    assert legend == ["home b00b1e", "home a2dbe2"], "runs of one name are told apart"


def test_what_is_compared_is_in_the_address(page: Page, url: str) -> None:
    tick(page, FIRST, SECOND)
    address = page.value("location.href")
    assert address.endswith(f"#compare={SECOND},{FIRST}")
    page.load("about:blank")
    page.load(address)
    assert page.value("document.querySelectorAll('#compare-loss path.curve').length") == 2


def test_runs_that_were_measured_on_other_rows_are_told_apart(page: Page, url: str, served: Served) -> None:
    report = RUNS / SECOND / "eval_report.json"
    found = json.loads(report.read_text())
    report.write_bytes(msgspec.json.encode({**found, "examples": 7}))
    write_index(RUNS)
    page.load(f"{url}?again")
    tick(page, FIRST, SECOND)
    assert not page.value("document.getElementById('other-rows').hidden")


def test_a_run_that_was_never_measured_can_be_compared_all_the_same(page: Page, url: str) -> None:
    tick(page, FIRST, THIRD)
    settings = rows_of(page, "compare-settings")
    assert settings["quantization.load_in_4bit"] == ["not set", "true"]
    assert rows_of(page, "compare-measures")["held-out loss"][0] == ""
    assert page.complaints() == []


@pytest.mark.parametrize("attack", [ATTACKS[0], ATTACKS[1], " ".join(ATTACKS)], ids=["script", "img", "all"])
def test_hostile_names_do_nothing(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    monkeypatch.chdir(served.folder)
    make_hostile_run(RUNS, attack, FIRST)
    make_hostile_run(RUNS, attack + "2", SECOND)
    write_index(RUNS)
    page.load(f"{served.url}/runs/index.html#compare={FIRST},{SECOND}")
    assert page.complaints() == []
    assert served.paths == ["/runs/index.html"]
    assert page.value("document.title") == "Runs"
    assert page.value("document.querySelectorAll('img, iframe, [onload], [onerror], [onfocus]').length") == 0
    assert page.value("document.querySelectorAll('#compare-settings tbody tr').length") > 1


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
@pytest.mark.parametrize("text", ["", "x" * 400, " ".join(ATTACKS)], ids=["usual", "long", "hostile"])
def test_the_page_never_scrolls_sideways(page: Page, url: str, width: int, text: str) -> None:
    if text:
        make_hostile_run(RUNS, text, "20261122-081502-home-dddddd")
        write_index(RUNS)
    page.view(width)
    page.load(f"{url}?again#compare={FIRST},{SECOND},{THIRD},20261122-081502-home-dddddd")
    found = page.value("document.documentElement.scrollWidth")
    page.view(1280)
    assert found <= width


@pytest.mark.parametrize(("look", "width"), [("light", 1280), ("dark", 1280), ("phone", 360)])
def test_axe_finds_no_serious_fault(page: Page, url: str, screenshots: Path, look: str, width: int) -> None:
    script = axe.source(screenshots.parent)
    page.view(width, dark=look == "dark")
    page.load(f"{url}?again#compare={FIRST},{SECOND},{THIRD}")
    page.screenshot(screenshots / f"runs-{look}.png")
    found = axe.faults(page, script)
    page.view(1280)
    assert found == []


def test_no_runs_are_no_fault(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(served.folder)
    RUNS.mkdir()
    write_index(RUNS)
    page.load(f"{served.url}/runs/index.html")
    assert page.complaints() == []
    assert "There are none yet" in page.value("document.body.innerText")
