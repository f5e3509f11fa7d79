"""Headless Chromium, driven through a pipe with its own DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SECONDS = 60


class Page:
    """One page. What it logs, throws, breaks or asks for is kept in `events`."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM
        (to_browser, self._out), (self._in, from_browser) = os.pipe(), os.pipe()

        def as_3_and_4() -> None:
            # Moved out of the way first: either may have one of these two numbers.
            read, write = os.dup(to_browser), os.dup(from_browser)
            os.dup2(read, 3)
            os.dup2(write, 4)

        flags = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-gpu"]
        flags += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        flags += ["--no-sandbox"] * (os.geteuid() == 0) + ["--disable-dev-shm-usage", "about:blank"]
        self._process = subprocess.Popen(
            [PROGRAM, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_3_and_4,  # noqa: PLW1509  the pipes have no other door
            close_fds=False,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._unread, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def view(self, width: int, *, dark: bool = False, media: str = "") -> None:
        """Sets the window's width, the colour scheme and the medium (`print`)."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def before_each(self, script: str) -> None:
        """Has a script run in each page, before its own."""
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=script)

    def load(self, url: str) -> None:
        """Goes there, waits until it has loaded, and a moment for what that sets off."""
        self.events.clear()
        self._ask("Page.navigate", url=url)
        self._wait(lambda: any(e["method"] == "Page.loadEventFired" for e in self.events), _SECONDS)
        self._wait(lambda: False, 0.5)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page; of a promise, what it is kept with."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Presses and lets go of a key, named as DOM and Windows do: `("ArrowLeft", 37)`."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def type(self, text: str) -> None:
        """Writes where the focus is."""
        self._ask("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        shot = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Console messages, exceptions, broken rules (CSP)."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(e["params"]) for e in self.events if e["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself among them."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers.extend(e for e in self.events if e.get("id") == message["id"])
            return bool(answers)

        self._wait(answered, _SECONDS)
        assert answers, f"Chromium doesn't answer {method}"
        self.events = [e for e in self.events if "id" not in e]
        assert "error" not in answers[0], answers[0]
        result: dict[str, Any] = answers[0]["result"]
        return result

    def _wait(self, done: Any, seconds: float) -> None:
        """Reads what Chromium says until `done()` or the time is up."""
        end = time.monotonic() + seconds
        while not done() and (left := end - time.monotonic()) > 0:
            if select.select([self._in], [], [], left)[0]:
                self._unread += os.read(self._in, 1 << 20)
                *whole, self._unread = self._unread.split(b"\0")
                self.events += [json.loads(text) for text in whole]
