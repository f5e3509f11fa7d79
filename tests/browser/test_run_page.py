"""A run's page in a real browser: what it shows, what can be done with it, and that nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.browser import axe
from tests.browser.chromium import PROGRAM, Page
from tests.browser.served import ATTACKS, Served
from tests.report.demo import make_hostile_run, make_run

from solotune.artifacts.measured import Prediction
from solotune.artifacts.run_dir import RunDir
from solotune.report import write_index, write_run_page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium"),
]

Shown = Callable[[RunDir], str]


@pytest.fixture
def shown(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Writes a run's page and opens it; gives its address."""
    monkeypatch.chdir(served.folder)

    def show(run_dir: RunDir) -> str:
        write_run_page(run_dir)
        url = f"{served.url}/{run_dir.page.as_posix()}"
        page.load(url)
        return url

    page.view(1280)
    return show


RUNS = Path("runs")


def predictions(run_dir: RunDir) -> list[Prediction]:
    return [msgspec.json.decode(line, type=Prediction) for line in run_dir.predictions.read_bytes().splitlines()]


def rewrite(run_dir: RunDir, rows: list[Prediction]) -> None:
    run_dir.predictions.write_bytes(msgspec.json.Encoder().encode_lines(rows))


def ids(page: Page) -> list[str]:
    found: list[str] = page.value("[...document.querySelectorAll('#rows h3')].map(h => h.textContent)")
    return found


def choose(page: Page, **values: str) -> None:
    """Sets controls of the answers, as a person would, and waits for what comes of it."""
    for name, value in values.items():
        page.value(
            f"(() => {{ const c = document.querySelector('#row-controls [name={name}]'); c.value = {json.dumps(value)};"
            "c.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
    page.value("new Promise(done => setTimeout(done, 300))")


def status(page: Page) -> str:
    text: str = page.value("document.getElementById('row-status').textContent")
    return text


def exact(row: Prediction) -> float:
    """How much worse the adapter is."""
    return (row.base.metrics["exact_match"] or 0) - (row.adapter.metrics["exact_match"] or 0)


def harm(row: Prediction) -> tuple[float, float]:
    """By exact_match; where that is the same, by the loss."""
    return exact(row), (row.adapter.nll - row.base.nll) / row.base.tokens


# What it shows


def test_it_loads_without_a_complaint_and_asks_for_nothing(page: Page, shown: Shown, served: Served) -> None:
    url = shown(make_run(RUNS))
    assert page.complaints() == []
    assert page.requests() == [url]
    assert served.paths == [f"/{url.split('/', 3)[3]}"]
    policy = page.value("document.querySelector('meta[http-equiv=Content-Security-Policy]').content")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_verdict_comes_first(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    first = page.value("document.querySelector('main').innerText.trim().split('\\n').slice(0, 3)")
    assert first[0] == "▲ Better than the base model"
    assert "95 % interval" in " ".join(first)


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluated": False, "exported": False, "verified": False},
        {"finished": False, "evaluated": False, "exported": False, "steps": 3},
        {"steps": 0, "finished": False, "evaluated": False, "exported": False, "gpu": False},
        {"rows": 1, "steps": 1},
    ],
    ids=["trained", "unfinished", "nothing logged", "one row, one step"],
)
def test_a_run_that_isnt_complete_has_a_page_without_a_complaint(
    page: Page, shown: Shown, changes: dict[str, Any]
) -> None:
    shown(make_run(RUNS, **changes))
    assert page.complaints() == []
    assert page.value("document.querySelectorAll('h1').length") == 1


def test_curves_are_read_by_keyboard_all_at_the_same_step(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    page.value("document.querySelector('#loss-curve .slider').focus()")
    page.press("Home", 36)
    for _ in range(4):
        page.press("ArrowRight", 39)
    assert page.value("document.activeElement.getAttribute('aria-valuetext')").startswith("step 5: train ")
    readouts = page.value(
        "[...document.querySelectorAll('#training ~ * .readout')].map(p => p.textContent.split(':')[0])"
    )
    assert readouts == ["step 5"] * 5


def test_the_loss_can_be_seen_on_a_logarithmic_axis(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    before = page.value("document.querySelector('#loss-curve path').getAttribute('d')")
    page.value("document.getElementById('loss-log').click()")
    assert page.value("document.querySelector('#loss-curve path').getAttribute('d')") != before
    assert "logarithmic" in page.value("document.querySelector('#loss-curve svg').textContent")


# What can be done with the answers


def test_rows_come_worst_first_and_best_first(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=60)
    rows = predictions(run_dir)
    shown(run_dir)
    worst = sorted(rows, key=harm, reverse=True)
    assert ids(page) == [row.id for row in worst[:10]]
    choose(page, order="best")
    assert ids(page) == [row.id for row in sorted(rows, key=harm)[:10]]
    choose(page, order="own-worst", measure="loss")
    assert ids(page)[0] == max(rows, key=lambda row: row.adapter.nll / row.adapter.tokens).id
    choose(page, order="file")
    assert ids(page) == [row.id for row in rows[:10]]


def test_rows_are_filtered_by_tag_text_and_change(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=60)
    rows = predictions(run_dir)
    shown(run_dir)
    tags = page.value("[...document.querySelectorAll('#row-controls [name=tag] option')].map(o => o.textContent)")
    tag = "refusal"
    tagged = [row for row in rows if tag in row.tags]
    choose(page, tag=str(tags.index(f"{tag} ({len(tagged)})") - 1), order="file", size="100")
    assert ids(page) == [row.id for row in tagged]
    assert status(page) == f"1 to {len(tagged)} of {len(tagged)} of 60 rows"

    choose(page, tag="", text="KITCHEN")
    texts = {row.id: " ".join([row.reference, row.base.answer, *(m["content"] for m in row.messages)]) for row in rows}
    assert ids(page) == [i for i, text in texts.items() if "kitchen" in text.lower()]

    choose(page, text="", measure="exact_match", change="better")
    assert set(ids(page)) == {row.id for row in rows if exact(row) < 0}
    choose(page, text="no row says this")
    assert status(page) == "No row matches; there are 60."
    page.value("document.querySelector('#row-controls [type=reset]').click()")
    page.value("new Promise(done => setTimeout(done, 100))")
    assert status(page) == "1 to 10 of 60 rows"


def test_pages_are_turned_by_keyboard(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=25)
    rows = predictions(run_dir)
    shown(run_dir)
    choose(page, order="file")
    page.value("document.getElementById('page-on').focus()")
    page.press("Enter", 13)
    assert ids(page) == [row.id for row in rows[10:20]]
    page.press("Enter", 13)
    assert page.value("document.getElementById('page-number').textContent") == "Page 3 of 3"
    assert page.value("document.getElementById('page-on').disabled")
    page.value("document.getElementById('page-first').click()")
    assert ids(page) == [row.id for row in rows[:10]]


def test_only_words_that_differ_are_marked(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    before, after = "turn the hall light on, please", "turn the kitchen light on, please do"
    answers = [msgspec.structs.replace(row.base, answer=text) for text in (before, after)]
    rewrite(run_dir, [msgspec.structs.replace(row, reference=before, base=answers[0], adapter=answers[1])])
    shown(run_dir)
    pair = "[...document.querySelectorAll('#rows .pair section')]"
    assert page.value(f"{pair}.map(s => s.querySelector('.data').textContent)") == [before, after]
    marked = f"{pair}.map(s => [...s.querySelectorAll('mark')].map(m => m.textContent))"
    assert page.value(marked) == [["hall"], ["kitchen", " do"]]
    choose(page, marks="reference")
    assert page.value(f"{pair}[1].querySelector('.data').textContent") == "turn the hallkitchen light on, please do"
    assert page.value(f"[...{pair}[1].querySelectorAll('del')].map(m => m.textContent)") == ["hall"]
    assert "equals the reference" in page.value(f"{pair}[0].innerText")


def test_a_row_that_got_worse_leads_to_its_answers(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=60, skill=0.4))
    wanted = page.value("document.querySelector('button[data-row]').dataset.row")
    page.value("document.querySelector('button[data-row]').click()")
    page.value("new Promise(done => setTimeout(done, 100))")
    assert ids(page) == [wanted]
    assert page.value("document.activeElement.name") == "text"


def test_exported_models_can_be_put_beside_the_adapter(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=5))
    choose(page, left="adapter", right="merged")
    titles = page.value("[...document.querySelectorAll('#rows li:first-child h4 b')].map(b => b.textContent)")
    assert titles == ["adapter", "merged"]


def test_a_long_answer_is_folded_until_it_is_wanted(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    rewrite(
        run_dir, [msgspec.structs.replace(row, adapter=msgspec.structs.replace(row.adapter, answer="long " * 2000))]
    )
    shown(run_dir)
    height = "document.querySelector('#rows .pair section + section .data').getBoundingClientRect().height"
    folded = page.value(height)
    page.value("document.querySelector('#rows .pair button').click()")
    assert page.value("document.querySelector('#rows .pair button').getAttribute('aria-expanded')") == "true"
    assert page.value(height) > 3 * folded


# What others wrote


@pytest.mark.parametrize("attack", [*ATTACKS, " ".join(ATTACKS)], ids=[*map(str, range(len(ATTACKS))), "all"])
def test_hostile_texts_are_shown_and_nothing_comes_of_them(
    page: Page, shown: Shown, served: Served, attack: str
) -> None:
    url = shown(make_hostile_run(RUNS, attack))
    assert page.complaints() == [], "not even a rule of the page had to stop anything"
    assert page.requests() == [url]
    assert len(served.paths) == 1
    assert page.value("document.title").startswith("home: run ")
    forbidden = "img, iframe, base, link, object, embed, [onload], [onerror], [onfocus], svg style, [srcdoc]"
    assert page.value(f"document.querySelectorAll('{forbidden}').length") == 0
    assert page.value("document.querySelectorAll('script').length") == 2
    assert page.value("[...document.links].every(a => a.protocol === location.protocol)")
    assert page.value("document.body.innerText").count(attack[:12]) > 10 or "\x1b" in attack
    assert page.value("document.documentElement.scrollWidth") <= 1280


def test_a_script_that_got_in_all_the_same_wouldnt_run(page: Page, shown: Shown, served: Served) -> None:
    run_dir = make_run(RUNS)
    url = shown(run_dir)
    run_dir.page.write_text(run_dir.page.read_text().replace("</main>", f"{ATTACKS[0]}{ATTACKS[1]}</main>"))
    page.load(url)
    assert page.value("document.title").startswith("home: run ")
    assert "/leak" not in served.paths


def test_what_cant_be_seen_is_spelt_out(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    text = "a\u202eb\u200bc\x07d\u2066e\U000e0041f\ufeffg\r\nh\u2028i"
    rewrite(
        run_dir,
        [msgspec.structs.replace(row, reference=text, adapter=msgspec.structs.replace(row.adapter, answer=text))],
    )
    shown(run_dir)
    codes = ["U+202E", "U+200B", "U+0007", "U+2066", "U+E0041", "U+FEFF", "U+000D", "U+2028"]
    found = page.value("[...document.querySelectorAll('#rows .said dd:last-child .code')].map(c => c.textContent)")
    assert found == codes
    assert (
        page.value("document.querySelector('#rows .said dd:last-child .data').textContent")
        == "aU+202EbU+200BcU+0007dU+2066eU+E0041fU+FEFFgU+000D\nhU+2028i"
    )


# For everybody


@pytest.mark.parametrize("width", [320, 400, 768, 1100, 1280])
@pytest.mark.parametrize("kind", ["usual", "long", "hostile"])
def test_the_page_never_scrolls_sideways(page: Page, shown: Shown, width: int, kind: str) -> None:
    texts = {"long": "x" * 400, "hostile": " ".join(ATTACKS)}
    page.view(width)
    shown(make_hostile_run(RUNS, texts[kind]) if kind in texts else make_run(RUNS))
    assert page.value("document.documentElement.scrollWidth") <= width
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.value("document.documentElement.scrollWidth") <= width


def test_dark_and_print_are_looks_of_their_own(page: Page, shown: Shown) -> None:
    url = shown(make_run(RUNS))
    grounds = []
    for dark, media in ((False, ""), (True, ""), (True, "print")):
        page.view(1280, dark=dark, media=media)
        page.load(url)
        grounds.append(page.value("getComputedStyle(document.body).backgroundColor"))
    page.view(1280)
    assert grounds == ["rgb(255, 255, 255)", "rgb(21, 24, 28)", "rgb(255, 255, 255)"]


def test_a_reader_of_screens_finds_headings_tables_and_curves(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    levels = page.value("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.value("[...document.querySelectorAll('table')].every(t => t.querySelector('thead th[scope=col]'))")
    assert page.value("[...document.querySelectorAll('[role=slider]')].every(s => s.getAttribute('aria-label'))")
    assert page.value("[...document.querySelectorAll('.contents a')].every(a => document.querySelector(a.hash))")


def test_every_control_can_be_reached_with_the_tab_key_and_is_seen_to_be(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=30))
    page.value("document.activeElement.blur()")
    reached = set()
    for _ in range(80):
        page.press("Tab", 9)
        reached.add(
            page.value("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")
        )
        assert page.value(
            "document.activeElement.tagName === 'BODY' || getComputedStyle(document.activeElement).outlineStyle"
        ) in (True, "solid", "auto")
    assert {"text", "tag", "measure", "order", "change", "marks", "size", "page-on", "SUMMARY"} <= reached


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_no_serious_fault(page: Page, shown: Shown, screenshots: Path, look: str) -> None:
    script = axe.source(screenshots.parent)
    page.view(360 if look == "phone" else 1280, dark=look == "dark")
    shown(make_run(RUNS, rows=30))
    page.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert axe.faults(page, script) == []
    page.view(1280)


@pytest.mark.parametrize(
    ("name", "width", "dark", "media"),
    [("light", 1280, False, ""), ("dark", 1280, True, ""), ("phone", 360, False, ""), ("print", 760, False, "print")],
)
def test_how_it_looks_is_kept(
    page: Page, shown: Shown, screenshots: Path, name: str, width: int, dark: bool, media: str
) -> None:
    page.view(width, dark=dark, media=media)
    shown(make_run(RUNS))
    path = screenshots / f"run-{name}.png"
    page.screenshot(path)
    page.view(1280)
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize(("rows", "milliseconds"), [(2_000, 1000), (20_000, 2000)])
def test_many_answers_open_quickly(page: Page, shown: Shown, rows: int, milliseconds: int) -> None:
    url = shown(make_run(RUNS, rows=rows))
    took = []
    for _ in range(3):
        page.load(url)
        took.append(page.value("performance.getEntriesByName('rows-shown')[0].startTime"))
    assert min(took) < milliseconds
    assert len(ids(page)) == 10
    assert status(page) == f"1 to 10 of {rows:,} rows"


def test_the_link_to_all_runs_leads_there(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS)
    shown(run_dir)
    write_index(RUNS)
    page.load(page.value("document.querySelector('.way a').href"))
    assert page.value("document.querySelector('h1').textContent") == "Runs"


def test_axe_would_find_a_serious_fault(page: Page, served: Served, screenshots: Path) -> None:
    """Without it the tests with axe couldn't fail."""
    script = axe.source(screenshots.parent)
    (served.folder / "bad.html").write_text("<!DOCTYPE html><html lang=en><title>x</title><button></button>")
    page.load(f"{served.url}/bad.html")
    assert "button-name" in axe.faults(page, script)[0]
