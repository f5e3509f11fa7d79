"""Pages are one file with a policy that fits their own bytes."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from tests.report.demo import make_hostile_run, make_run

from solotune import report
from solotune.report.page import in_script

RUNS = Path("runs")


def page_of(kind: str) -> str:
    run_dir = make_run(RUNS, steps=30, rows=6)
    path = report.write_run_page(run_dir) if kind == "run" else report.write_index(RUNS)
    return path.read_text()


@pytest.mark.parametrize("kind", ["run", "index"])
def test_the_policy_names_the_style_and_the_script_by_hash(runs: Path, kind: str) -> None:
    text = page_of(kind)
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="(.*?)"', text)[0])
    for name in ("style", "script"):
        (inner,) = re.findall(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
        wanted = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{wanted}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


@pytest.mark.parametrize("kind", ["run", "index"])
def test_nothing_is_fetched_and_no_attribute_runs_or_styles(runs: Path, kind: str) -> None:
    text = re.sub(r"<script.*?</script>|<style>.*?</style>", "", page_of(kind), flags=re.DOTALL)
    assert not re.search(r"\b(src|srcset|style|on\w+)=", text)
    assert not re.search(r"https?:|url\(|@import", text)
    assert all(not href.startswith(("http", "//", "javascript")) for href in re.findall(r'href="([^"]*)"', text))


def test_our_own_files_cant_end_their_elements_or_write_markup() -> None:
    for file in files("solotune.report").iterdir():
        if file.name.endswith((".js", ".css")):
            text = file.read_text("utf-8")
            assert not re.search(r"</|<!--|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text), file.name
            assert "{{" not in text


def test_data_in_a_script_has_no_markup_and_reads_back() -> None:
    data = {"a": "</script><!-- & \u2028\u2029 <script>", "<b>": [1.5, None, "ü"]}
    written = in_script(data)
    assert not set(b"<>&") & set(written)
    assert "\u2028" not in written.decode()
    assert json.loads(written) == data


def test_the_template_escapes_what_others_wrote(runs: Path) -> None:
    text = report.write_run_page(make_hostile_run(runs, "\"'><img src=x>&{{7*7}}")).read_text()
    assert "<img" not in text
    assert "&lt;img src=x&gt;" in text
    assert "{{7*7}}" in text
    assert "\\u003cimg src=x\\u003e" in text


@pytest.mark.parametrize("attack", ["\x1b[31m", "a\u202eb", "\u2028"])
def test_what_doesnt_print_is_never_written_raw_outside_of_the_data(runs: Path, attack: str) -> None:
    text = report.write_run_page(make_hostile_run(runs, f"<{attack}>")).read_text()
    assert attack not in re.sub(
        r'<script type="application/json".*?</script>|data-row="[^"]*"|data-measure="[^"]*"', "", text, flags=re.DOTALL
    )


def test_the_same_run_gives_the_same_bytes(runs: Path) -> None:
    run_dir = make_run(runs, steps=30, rows=6)
    first = report.write_run_page(run_dir).read_bytes()
    assert report.write_run_page(run_dir).read_bytes() == first
