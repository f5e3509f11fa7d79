"""The page of all runs in a real browser: sorted, searched, compared, and safe from what runs are called."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.browser import axe
from tests.browser.looks import DARK, PHONE, wide
from tests.browser.served import ATTACKS, Served
from tests.report.demo import make_hostile_run, make_run

from solotune.report import write_index, write_run_page

pytestmark = pytest.mark.browser

RUNS = Path("runs")
FIRST, SECOND, THIRD = "20261123-214205-home-a2dbe2", "20261124-081502-home-b00b1e", "20261124-101502-lora-c0ffee"
BROKEN = "20261125-121502-broken-ababab"


@pytest.fixture
def url(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three runs and one that can't be read, in a page that is open."""
    monkeypatch.chdir(served.folder)
    write_run_page(make_run(RUNS, FIRST, rows=40))
    training = {"max_length": 1024, "eval_steps": 50, "learning_rate": 1e-4}
    make_run(RUNS, SECOND, seed=3, rows=40, skill=0.6, training=training, exported=False)
    make_run(RUNS, THIRD, seed=4, rows=30, steps=300, quantization=None, gpu=False, evaluated=False, exported=False)
    (RUNS / BROKEN).mkdir()
    write_index(RUNS)
    address = f"{served.url}/runs/index.html"
    page.goto(address)
    return address


def order(page: Page) -> Locator:
    """What each run that is shown is called."""
    return page.locator("#runs tbody tr:visible th code")


def sort_by(page: Page, heading: str) -> None:
    page.locator("#runs thead").get_by_role("button", name=heading, exact=True).click()


def tick(page: Page, *runs: str) -> None:
    for run in runs:
        page.get_by_role("checkbox", name=f"Compare {run}").check()


def rows_of(table: Locator) -> dict[str, list[str]]:
    lines = table.locator("tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.textContent))")
    return {line[0]: line[1:] for line in lines}


def test_all_runs_are_there_the_newest_first(page: Page, url: str) -> None:
    expect(order(page)).to_have_text([BROKEN, THIRD, SECOND, FIRST])
    expect(page.locator("#runs td[class*=state]")).to_have_text(["damaged", "trained", "evaluated", "exported"])
    (link,) = page.locator("#runs").get_by_role("link").all()
    assert link.get_attribute("href") == f"{FIRST}/report.html", "a run without a page has no link"


def test_it_loads_without_a_complaint_and_asks_for_nothing(
    page: Page, complaints: list[str], requests: list[str], url: str
) -> None:
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert requests == [url]


def test_any_column_sorts_and_what_is_missing_goes_last(page: Page, url: str) -> None:
    sort_by(page, "Held-out loss")
    expect(order(page)).to_have_text([FIRST, SECOND, BROKEN, THIRD])
    expect(page.locator("[data-key=loss]")).to_have_attribute("aria-sort", "ascending")
    sort_by(page, "Held-out loss")
    expect(order(page)).to_have_text([SECOND, FIRST, BROKEN, THIRD])
    sort_by(page, "exact_match")
    expect(order(page)).to_have_text([SECOND, FIRST, BROKEN, THIRD])
    expect(page.locator("#runs [aria-sort]")).to_have_count(1)


def test_a_search_leaves_the_runs_that_hold_the_text(page: Page, url: str) -> None:
    page.get_by_role("searchbox", name="Search").fill("LORA")
    expect(order(page)).to_have_text([THIRD])
    expect(page.locator("#run-status")).to_have_text("1 of 4 runs")


def test_two_runs_are_laid_over_each_other(page: Page, url: str) -> None:
    tick(page, FIRST)
    expect(page.locator("#comparison")).to_be_hidden()
    tick(page, SECOND)
    expect(page.locator("#comparison")).to_be_visible()
    expect(page.locator("#compare-loss path.curve")).to_have_count(2)
    expect(page.locator("#compare-val path.curve")).to_have_count(2)
    assert rows_of(page.locator("#compare-settings")) == {"training.learning_rate": ["0.0001", "0.0002"]}
    measured = rows_of(page.locator("#compare-measures"))
    assert measured["held-out loss"][1] < measured["held-out loss"][0], "the newer one stands left, and is worse"
    expect(page.locator("#other-rows")).to_be_hidden()
    # Runs of one name are told apart.
    expect(page.locator("#compare-legend li")).to_have_text(["home b00b1e", "home a2dbe2"])


def test_runs_are_sorted_and_compared_with_the_keyboard_alone(page: Page, url: str) -> None:
    focused = page.locator(":focus")

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            assert focused.evaluate("e => getComputedStyle(e).outlineStyle") in ("solid", "auto")
            if focused.evaluate("e => e.ariaLabel || e.textContent") == name:
                return
        raise AssertionError(f"the tab key doesn't reach {name}")

    tab_to("Held-out loss")
    page.keyboard.press("Enter")
    expect(order(page)).to_have_text([FIRST, SECOND, BROKEN, THIRD])
    for run in (FIRST, SECOND):
        tab_to(f"Compare {run}")
        page.keyboard.press("Space")
    expect(page.locator("#comparison")).to_be_visible()


def test_what_is_compared_is_in_the_address(page: Page, url: str) -> None:
    tick(page, FIRST, SECOND)
    expect(page).to_have_url(re.compile(f"#compare={SECOND},{FIRST}$"))
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(page.locator("#compare-loss path.curve")).to_have_count(2)


def test_runs_that_were_measured_on_other_rows_are_told_apart(page: Page, url: str) -> None:
    report = RUNS / SECOND / "eval_report.json"
    found = json.loads(report.read_text())
    report.write_bytes(msgspec.json.encode({**found, "examples": 7}))
    write_index(RUNS)
    page.goto(f"{url}?again")  # another address, or the server says that nothing changed in this second
    tick(page, FIRST, SECOND)
    expect(page.locator("#other-rows")).to_be_visible()


def test_a_run_that_was_never_measured_can_be_compared_all_the_same(
    page: Page, complaints: list[str], url: str
) -> None:
    tick(page, FIRST, THIRD)
    assert rows_of(page.locator("#compare-settings"))["quantization.load_in_4bit"] == ["not set", "true"]
    assert rows_of(page.locator("#compare-measures"))["held-out loss"][0] == ""
    assert complaints == []


@pytest.mark.parametrize("attack", [ATTACKS[0], ATTACKS[1], " ".join(ATTACKS)], ids=["script", "img", "all"])
def test_hostile_names_do_nothing(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, complaints: list[str], attack: str
) -> None:
    monkeypatch.chdir(served.folder)
    make_hostile_run(RUNS, attack, FIRST)
    make_hostile_run(RUNS, attack + "2", SECOND)
    write_index(RUNS)
    page.goto(f"{served.url}/runs/index.html#compare={FIRST},{SECOND}", wait_until="networkidle")
    assert complaints == []
    assert served.paths == ["/runs/index.html"]
    expect(page).to_have_title("Runs")
    expect(page.locator("img, iframe, [onload], [onerror], [onfocus]")).to_have_count(0)
    assert len(rows_of(page.locator("#compare-settings"))) > 1


@pytest.mark.parametrize("look", [wide(n) for n in (320, 400, 768, 1280)], ids=["320", "400", "768", "1280"])
@pytest.mark.parametrize("text", ["", "x" * 400, " ".join(ATTACKS)], ids=["usual", "long", "hostile"])
def test_the_page_never_scrolls_sideways(page: Page, url: str, look: dict[str, Any], text: str) -> None:
    if text:
        make_hostile_run(RUNS, text, "20261122-081502-home-dddddd")
        write_index(RUNS)
    page.goto(f"{url}?again#compare={FIRST},{SECOND},{THIRD},20261122-081502-home-dddddd")
    assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]


@pytest.mark.parametrize(("name", "look"), [("light", {}), ("dark", DARK), ("phone", PHONE)])
def test_axe_finds_no_serious_fault(page: Page, url: str, screenshots: Path, name: str) -> None:
    page.goto(f"{url}?again#compare={FIRST},{SECOND},{THIRD}")
    page.screenshot(path=screenshots / f"runs-{name}.png", full_page=True)
    assert axe.faults(page) == []


def test_no_runs_are_no_fault(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, complaints: list[str]
) -> None:
    monkeypatch.chdir(served.folder)
    RUNS.mkdir()
    write_index(RUNS)
    page.goto(f"{served.url}/runs/index.html")
    expect(page.get_by_role("main")).to_contain_text("There are none yet")
    assert complaints == []
