"""Debian's Chromium through Playwright, what a page says and asks for, a server, and a place for pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WINDOW = {"width": 1280, "height": 900}


def pytest_pycollect_makemodule() -> None:
    """Where Playwright isn't installed there are no tests; in CI their imports fail."""
    if not os.environ.get("CI"):
        pytest.importorskip("playwright", reason="no Playwright: any task of scripts/local.sh installs it")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    program = shutil.which("chromium")
    if program is None:
        miss = pytest.fail if os.environ.get("CI") else pytest.skip
        miss("no Chromium: sudo apt-get install chromium")
    expect.set_options(timeout=20_000)  # milliseconds, on a busy machine
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program) as browser:
        yield browser


@pytest.fixture
def look() -> dict[str, Any]:
    """What is otherwise than in a light window on a desk: a test sets it as its parameter."""
    return {}


@pytest.fixture
def page(browser: Browser, look: dict[str, Any]) -> Iterator[Page]:
    with browser.new_context(**({"viewport": WINDOW} | look)) as context:
        yield context.new_page()


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """Console messages, exceptions, broken rules (CSP)."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


@pytest.fixture
def requests(page: Page) -> list[str]:
    """Addresses that the page asked for, itself among them."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    thread = Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """A folder that git ignores and that the next run of the tests finds: .pytest_cache/d/screenshots."""
    cache: pytest.Cache = request.config.cache
    return Path(cache.mkdir("screenshots"))
