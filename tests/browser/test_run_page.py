"""A run's page in a real browser: what it shows, what can be done with it, and that nothing else happens."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.browser import axe
from tests.browser.looks import DARK, PHONE, wide
from tests.browser.served import ATTACKS, Served
from tests.report.demo import make_hostile_run, make_run

from solotune.artifacts.measured import Prediction, Proof
from solotune.artifacts.run_dir import RunDir
from solotune.report import write_index, write_run_page

pytestmark = pytest.mark.browser

Shown = Callable[[RunDir], str]


@pytest.fixture
def shown(page: Page, served: Served, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Writes a run's page and opens it; gives its address."""
    monkeypatch.chdir(served.folder)

    def show(run_dir: RunDir) -> str:
        write_run_page(run_dir)
        url = f"{served.url}/{run_dir.page.as_posix()}"
        page.goto(url)
        return url

    return show


RUNS = Path("runs")


def predictions(run_dir: RunDir) -> list[Prediction]:
    return [msgspec.json.decode(line, type=Prediction) for line in run_dir.predictions.read_bytes().splitlines()]


def rewrite(run_dir: RunDir, rows: list[Prediction]) -> None:
    run_dir.predictions.write_bytes(msgspec.json.Encoder().encode_lines(rows))


def ids(page: Page) -> Locator:
    return page.locator("#rows h3")


def choose(page: Page, **options: str) -> None:
    """Sets controls of the answers, each by its name and what it then shows."""
    for name, option in options.items():
        page.get_by_role("combobox", name=name, exact=True).select_option(label=option)


def search(page: Page, text: str) -> None:
    page.get_by_role("searchbox", name="Text").fill(text)


def exact(row: Prediction) -> float:
    """How much worse the adapter is."""
    return (row.base.metrics["exact_match"] or 0) - (row.adapter.metrics["exact_match"] or 0)


def harm(row: Prediction) -> tuple[float, float]:
    """By exact_match; where that is the same, by the loss."""
    return exact(row), (row.adapter.nll - row.base.nll) / row.base.tokens


# What it shows


def test_it_loads_without_a_complaint_and_asks_for_nothing(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, complaints: list[str], requests: list[str]
) -> None:
    monkeypatch.chdir(served.folder)
    run_dir = make_run(RUNS)
    write_run_page(run_dir)
    url = f"{served.url}/{run_dir.page.as_posix()}"
    page.goto(url, wait_until="networkidle")
    assert complaints == []
    assert requests == [url]
    assert served.paths == [f"/{run_dir.page.as_posix()}"]
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") or ""
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_it_needs_no_server(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaints: list[str]) -> None:
    """As it is opened by a double click."""
    monkeypatch.chdir(tmp_path)
    run_dir = make_run(RUNS)
    write_run_page(run_dir)
    page.goto(run_dir.page.resolve().as_uri(), wait_until="networkidle")
    expect(ids(page)).to_have_count(10)
    assert complaints == []


def test_the_verdict_comes_first(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    first = page.get_by_role("main").inner_text().strip().split("\n")[:3]
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
    page: Page, shown: Shown, complaints: list[str], changes: dict[str, Any]
) -> None:
    shown(make_run(RUNS, **changes))
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert complaints == []


def test_curves_are_read_by_keyboard_all_at_the_same_step(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    loss = page.get_by_role("slider", name="Loss, by step")
    loss.press("Home")
    for _ in range(4):
        loss.press("ArrowRight")
    expect(loss).to_be_focused()
    expect(loss).to_have_attribute("aria-valuetext", re.compile("^step 5: train "))
    expect(page.locator("#training ~ * .readout")).to_have_text([re.compile("^step 5: ")] * 5)


def test_curves_are_read_with_a_pointer(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    loss = page.get_by_role("slider", name="Loss, by step")
    loss.hover()
    expect(page.locator("#training ~ * .readout")).to_have_text([re.compile("^step (29|30)\\d: ")] * 5)
    page.get_by_role("heading", level=1).hover()
    expect(page.locator("#loss-curve .readout")).to_be_empty()


def test_the_loss_can_be_seen_on_a_logarithmic_axis(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    curve = page.locator("#loss-curve path").first
    before = curve.get_attribute("d") or ""
    page.get_by_label("logarithmic").click()
    expect(curve).not_to_have_attribute("d", before)
    expect(page.locator("#loss-curve svg")).to_contain_text("logarithmic")


def test_an_axis_says_what_its_ticks_are(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    assert page.evaluate("tickTexts([0, 5e-5, 1e-4, 1.5e-4])") == ["0", "5e−5", "1e−4", "1.5e−4"]
    assert page.evaluate("tickTexts([0, 5e-4, 1e-3])") == ["0", "5e−4", "1e−3"]
    assert page.evaluate("tickTexts([0, 5000, 10000])") == ["0", "5,000", "10,000"]


def test_a_metric_with_long_options_leaves_the_verdicts_in_sight(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS)
    report = json.loads(run_dir.eval_report.read_text())
    report["metric_labels"] = {"exact_match": "choices: " + '{"tool":"none","reason":"no_such_device"},' * 4}
    run_dir.eval_report.write_text(json.dumps(report))
    shown(run_dir)
    region = page.get_by_role("region", name="Base model and adapter on held-out rows")
    expect(region.get_by_text("choices:")).to_be_visible()
    assert region.evaluate("e => e.scrollWidth <= e.clientWidth")


# What can be done with the answers


def test_the_measure_that_most_rows_have_orders_them(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=5)
    rare = {"exact_match": None}
    rows = [
        msgspec.structs.replace(
            row,
            base=msgspec.structs.replace(row.base, metrics=row.base.metrics | rare),
            adapter=msgspec.structs.replace(row.adapter, metrics=row.adapter.metrics | rare),
            artefacts={},
        )
        for row in predictions(run_dir)
    ]
    rewrite(run_dir, rows)
    shown(run_dir)
    expect(page.get_by_role("combobox", name="Measure")).to_have_value("json_fields_f1")


def test_rows_come_worst_first_and_best_first(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=60)
    rows = predictions(run_dir)
    shown(run_dir)
    expect(ids(page)).to_have_text([row.id for row in sorted(rows, key=harm, reverse=True)[:10]])
    choose(page, Order="best change first")
    expect(ids(page)).to_have_text([row.id for row in sorted(rows, key=harm)[:10]])
    choose(page, Order="adapter's worst first", Measure="loss")
    expect(ids(page).first).to_have_text(max(rows, key=lambda row: row.adapter.nll / row.adapter.tokens).id)
    choose(page, Order="as in the file")
    expect(ids(page)).to_have_text([row.id for row in rows[:10]])


def test_rows_are_filtered_by_tag_text_and_change(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=60)
    rows = predictions(run_dir)
    shown(run_dir)
    status = page.locator("#row-status")
    tagged = [row.id for row in rows if "refusal" in row.tags]
    choose(page, Tag=f"refusal ({len(tagged)})", Order="as in the file")
    choose(page, **{"A page": "100 rows"})
    expect(ids(page)).to_have_text(tagged)
    expect(status).to_have_text(f"1 to {len(tagged)} of {len(tagged)} of 60 rows")

    choose(page, Tag="all (60)")
    search(page, "KITCHEN")
    texts = {row.id: " ".join([row.reference, row.base.answer, *(m["content"] for m in row.messages)]) for row in rows}
    expect(ids(page)).to_have_text([i for i, text in texts.items() if "kitchen" in text.lower()])

    search(page, "")
    choose(page, Measure="exact_match", Rows="that got better")
    expect(ids(page)).to_have_text([row.id for row in rows if exact(row) < 0])
    search(page, "no row says this")
    expect(status).to_have_text("No row matches; there are 60.")
    page.get_by_role("button", name="Reset").click()
    expect(status).to_have_text("1 to 10 of 60 rows")


def test_pages_are_turned_by_keyboard(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=25)
    rows = predictions(run_dir)
    shown(run_dir)
    choose(page, Order="as in the file")
    on = page.get_by_role("button", name="Next")
    on.press("Enter")
    expect(ids(page)).to_have_text([row.id for row in rows[10:20]])
    page.keyboard.press("Enter")
    expect(page.locator("#page-number")).to_have_text("Page 3 of 3")
    expect(on).to_be_disabled()
    page.get_by_role("button", name="First").click()
    expect(ids(page)).to_have_text([row.id for row in rows[:10]])


def test_only_words_that_differ_are_marked(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    before, after = "turn the hall light on, please", "turn the kitchen light on, please do"
    answers = [msgspec.structs.replace(row.base, answer=text) for text in (before, after)]
    rewrite(run_dir, [msgspec.structs.replace(row, reference=before, base=answers[0], adapter=answers[1])])
    shown(run_dir)
    left, right = page.locator("#rows .pair section").all()
    expect(left.locator(".data")).to_have_text(before)
    expect(right.locator(".data")).to_have_text(after)
    expect(left.locator("mark")).to_have_text(["hall"])
    expect(right.locator("mark")).to_have_text(["kitchen", "do"])
    choose(page, Marked="against the reference")
    expect(right.locator(".data")).to_have_text("turn the hallkitchen light on, please do")
    expect(right.locator("del")).to_have_text(["hall"])
    expect(left).to_contain_text("equals the reference")


def test_where_little_is_common_a_note_stands_for_the_marks(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    before, after = (
        msgspec.structs.replace(row.base, answer=text) for text in ("I can't help", '{"action": "lights_on"}')
    )
    rewrite(run_dir, [msgspec.structs.replace(row, base=before, adapter=after)])
    shown(run_dir)
    titles = page.locator("#rows h4")
    expect(titles).to_have_text([f"{name}, little in common with the other" for name in ("base", "adapter")])
    expect(page.locator("#rows mark")).to_have_count(0)
    choose(page, Marked="nothing")
    expect(titles).to_have_text(["base", "adapter"])


def test_an_answer_that_was_cut_says_so(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    base = msgspec.structs.replace(row.base, answer=row.reference, cut=True)
    rewrite(run_dir, [msgspec.structs.replace(row, base=base, adapter=msgspec.structs.replace(base, cut=False))])
    shown(run_dir)
    expect(page.locator("#rows h4")).to_have_text(
        ["base, cut at max_new_tokens, equals the reference", "adapter, equals the reference"]
    )


def test_a_row_that_got_worse_leads_to_its_answers(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=60, skill=0.4))
    row = page.locator("button[data-row]").first
    wanted = row.get_attribute("data-row") or ""
    row.click()
    expect(ids(page)).to_have_text([wanted])
    expect(page.get_by_role("searchbox", name="Text")).to_be_focused()


def test_exported_models_can_be_put_beside_the_adapter(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=5))
    choose(page, Left="adapter", Right="merged")
    expect(page.locator("#rows li:first-child h4 b")).to_have_text(["adapter", "merged"])


def test_a_long_answer_is_folded_until_it_is_wanted(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=1)
    (row,) = predictions(run_dir)
    rewrite(
        run_dir, [msgspec.structs.replace(row, adapter=msgspec.structs.replace(row.adapter, answer="long " * 2000))]
    )
    shown(run_dir)
    answer = page.locator("#rows .pair section + section .data")
    folded = answer.bounding_box()
    page.get_by_role("button", name="Show all (10,000 characters)").click()
    expect(page.get_by_role("button", name="Fold")).to_have_attribute("aria-expanded", "true")
    unfolded = answer.bounding_box()
    assert folded
    assert unfolded
    assert unfolded["height"] > 3 * folded["height"]


# What others wrote


@pytest.mark.parametrize("attack", [*ATTACKS, " ".join(ATTACKS)], ids=[*map(str, range(len(ATTACKS))), "all"])
def test_hostile_texts_are_shown_and_nothing_comes_of_them(
    page: Page, shown: Shown, served: Served, complaints: list[str], requests: list[str], attack: str
) -> None:
    url = shown(make_hostile_run(RUNS, attack))
    page.wait_for_load_state("networkidle")
    assert complaints == [], "not even a rule of the page had to stop anything"
    assert requests == [url]
    assert len(served.paths) == 1
    assert page.title().startswith("home: run ")
    forbidden = "img, iframe, base, link, object, embed, [onload], [onerror], [onfocus], svg style, [srcdoc]"
    expect(page.locator(forbidden)).to_have_count(0)
    expect(page.locator("script")).to_have_count(2)
    assert page.evaluate("[...document.links].every(a => a.protocol === location.protocol)")
    assert page.locator("body").inner_text().count(attack[:12]) > 10 or "\x1b" in attack
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_a_script_that_got_in_all_the_same_wouldnt_run(page: Page, shown: Shown, served: Served) -> None:
    run_dir = make_run(RUNS)
    url = shown(run_dir)
    run_dir.page.write_text(run_dir.page.read_text().replace("</main>", f"{ATTACKS[0]}{ATTACKS[1]}</main>"))
    page.goto(url, wait_until="networkidle")
    assert page.title().startswith("home: run ")
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
    reference = page.locator("#rows .said dd:last-child .data")
    codes = ["U+202E", "U+200B", "U+0007", "U+2066", "U+E0041", "U+FEFF", "U+000D", "U+2028"]
    expect(reference.locator(".code")).to_have_text(codes)
    assert reference.text_content() == "aU+202EbU+200BcU+0007dU+2066eU+E0041fU+FEFFgU+000D\nhU+2028i"


# For everybody


@pytest.mark.parametrize(
    "look", [wide(n) for n in (320, 400, 768, 1100, 1280)], ids=["320", "400", "768", "1100", "1280"]
)
@pytest.mark.parametrize("kind", ["usual", "long", "hostile"])
def test_the_page_never_scrolls_sideways(page: Page, shown: Shown, look: dict[str, Any], kind: str) -> None:
    texts = {"long": "x" * 400, "hostile": " ".join(ATTACKS)}
    shown(make_hostile_run(RUNS, texts[kind]) if kind in texts else make_run(RUNS))
    assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]


@pytest.mark.parametrize("look", [PHONE], ids=["phone"])
def test_a_config_is_read_on_a_phone_without_scrolling_sideways(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    unfold(page)
    for table in page.locator("table.keys").all():
        assert table.evaluate("e => e.parentElement.scrollWidth <= e.parentElement.clientWidth")


@pytest.mark.parametrize(
    "look", [wide(400), wide(1280), wide(1920), DARK | wide(1280)], ids=["phone", "desk", "wide", "dark"]
)
def test_a_table_that_goes_on_to_the_right_has_a_shadow_there(page: Page, shown: Shown) -> None:
    run_dir = make_run(RUNS, rows=5)
    report = run_dir.report()
    assert report
    proof = Proof(5, 0.2, 1.2, 3.5, 0.2, 0.004, 0.995, "dequantised", kept=True, passed=True)
    proofs = dict.fromkeys(("merged", "gguf-q8_0"), proof)
    run_dir.eval_report.write_bytes(msgspec.json.encode(msgspec.structs.replace(report, proofs=proofs)))
    shown(run_dir)
    table = page.get_by_role("region", name="5 rows of test.")
    assert table.evaluate("e => e.scrollWidth > e.clientWidth")
    ground = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number)")
    assert at_right_edge(table) != ground
    table.evaluate("e => e.scrollLeft = e.scrollWidth")
    assert at_right_edge(table) == ground


def at_right_edge(region: Locator) -> Any:
    """Red, green and blue in the padding of its last row."""
    picture = base64.b64encode(region.screenshot()).decode()
    canvas = region.page.context.new_page()  # the page's own policy allows no picture
    return canvas.evaluate(
        """async picture => {
          const image = new Image();
          image.src = `data:image/png;base64,${picture}`;
          await image.decode();
          const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
          context.drawImage(image, 0, 0);
          return [...context.getImageData(image.width - 3, image.height - 5, 1, 1).data].slice(0, 3);
        }""",
        picture,
    )


def unfold(page: Page) -> None:
    page.locator("details").evaluate_all("all => all.forEach(d => d.open = true)")


def test_dark_and_print_are_looks_of_their_own(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    body, test_rows = page.locator("body"), page.locator(".stack .part-test")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(test_rows).to_have_css("fill", "rgb(0, 117, 90)")
    page.emulate_media(color_scheme="dark")
    expect(body).to_have_css("background-color", "rgb(21, 24, 28)")
    expect(test_rows).to_have_css("fill", "rgb(76, 201, 164)")
    page.emulate_media(color_scheme="dark", media="print")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(test_rows).to_have_css("fill", "rgb(0, 117, 90)")


@pytest.mark.parametrize("look", [{"reduced_motion": "no-preference"}])
def test_nothing_moves_by_itself(page: Page, shown: Shown) -> None:
    """So there is nothing to be held still for who asks for reduced motion."""
    shown(make_run(RUNS))
    page.get_by_role("button", name="Next").click()
    expect(ids(page)).to_have_count(10)
    assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_a_reader_of_screens_finds_headings_tables_and_curves(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    levels = page.get_by_role("heading").evaluate_all("all => all.map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    tables = page.get_by_role("table")
    assert tables.evaluate_all("all => all.every(t => t.querySelector('thead th[scope=col]'))")
    expect(page.get_by_role("slider", name="by step")).to_have_count(5)
    contents = page.get_by_role("navigation", name="On this page").get_by_role("link")
    assert contents.evaluate_all("all => all.length > 5 && all.every(a => document.querySelector(a.hash))")


def test_every_control_can_be_reached_with_the_tab_key_and_is_seen_to_be(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=30))
    focused = page.locator(":focus")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        if not focused.count():  # past the last one: the browser's own
            continue
        reached.add(focused.evaluate("e => e.id || e.name || e.tagName"))
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") in ("solid", "auto")
    assert {"text", "tag", "measure", "order", "change", "marks", "size", "page-on", "SUMMARY"} <= reached


@pytest.mark.parametrize("look", [{}, DARK, PHONE], ids=["light", "dark", "phone"])
def test_axe_finds_no_serious_fault(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS, rows=30))
    unfold(page)
    assert axe.faults(page) == []


@pytest.mark.parametrize(
    ("name", "look", "media"),
    [("light", {}, "screen"), ("dark", DARK, "screen"), ("phone", PHONE, "screen"), ("print", wide(760), "print")],
    ids=["light", "dark", "phone", "print"],
)
def test_how_it_looks_is_kept(page: Page, shown: Shown, screenshots: Path, name: str, media: Any) -> None:
    page.emulate_media(media=media)
    shown(make_run(RUNS))
    path = screenshots / f"run-{name}.png"
    page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize(("rows", "milliseconds"), [(2_000, 1000), (20_000, 2000)])
def test_many_answers_open_quickly(page: Page, shown: Shown, rows: int, milliseconds: int) -> None:
    url = shown(make_run(RUNS, rows=rows))
    took = []
    for _ in range(3):
        page.goto(url)
        took.append(page.evaluate("performance.getEntriesByName('rows-shown')[0].startTime"))
    assert min(took) < milliseconds
    expect(ids(page)).to_have_count(10)
    expect(page.locator("#row-status")).to_have_text(f"1 to 10 of {rows:,} rows")


def test_the_link_to_all_runs_leads_there(page: Page, shown: Shown) -> None:
    shown(make_run(RUNS))
    write_index(RUNS)
    page.get_by_role("link", name="All runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")


def test_axe_would_find_a_serious_fault(page: Page, served: Served) -> None:
    """Without it the tests with axe couldn't fail."""
    (served.folder / "bad.html").write_text("<!DOCTYPE html><html lang=en><title>x</title><button></button>")
    page.goto(f"{served.url}/bad.html")
    assert "button-name" in axe.faults(page)[0]
