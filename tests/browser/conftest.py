"""A browser, a server, and a place for what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from tests.browser.chromium import Page
from tests.browser.served import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    thread = Thread(target=served.server.serve_forever)
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """A folder that git ignores and that the next run of the tests finds: .pytest_cache/d/screenshots."""
    cache: pytest.Cache = request.config.cache
    return Path(cache.mkdir("screenshots"))
