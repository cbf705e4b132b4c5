"""A headless Chromium, spoken to over a pipe by its DevTools protocol: nothing is installed for it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FOUND = os.environ.get("CHROMIUM") or next((place for name in NAMES if (place := shutil.which(name))), None)
PATIENCE = 60.0  # seconds
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts a program that reads at 3 and writes at 4."""


class Tab:
    """A page. said: what it wrote to the console, and what went wrong in it."""

    def __init__(self, asks: int, tells: int) -> None:
        self._asks, self._tells, self._held, self._number = asks, tells, b"", 0
        self._session: str | None = None
        self.said: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A command, and its answer."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._asks, json.dumps(asked).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._tells], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser says nothing"
            more = os.read(self._tells, 2**20)
            assert more, "the browser is gone"
            self._held += more
        text, _, self._held = self._held.partition(b"\0")
        answer = json.loads(text)
        what, said = answer.get("method"), answer.get("params", {})
        if what == "Runtime.exceptionThrown":
            self.said.append(json.dumps(said["exceptionDetails"])[:500])
        elif what == "Runtime.consoleAPICalled":
            self.said.append(f"{said['type']}: {[each.get('value') for each in said['args']]}")
        elif what == "Log.entryAdded":
            self.said.append(f"{said['entry']['level']}: {said['entry']['text']}")
        elif what == "Network.requestWillBeSent" and said["request"]["url"].split(":")[0] in ("http", "https"):
            self.said.append(f"asks {said['request']['url']}")
        return answer

    def see(self, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        """The size of the window, and what the person prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, address: str) -> None:
        """Goes to a page, and waits until its charts are drawn."""
        self.call("Page.navigate", url=address)
        self.wait("document.documentElement?.dataset.charts === 'drawn'")

    def wait(self, condition: str) -> None:
        """Until that is true in the page."""
        until = time.monotonic() + PATIENCE
        while not self.value(condition):
            assert time.monotonic() < until, f"never: {condition}; {self.said}"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What an expression gives in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


@contextlib.contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """A browser with one page. folder: for what it keeps."""
    assert FOUND is not None
    (theirs_in, asks), (tells, theirs_out) = os.pipe(), os.pipe()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--hide-scrollbars"]
    ends = str(theirs_in), str(theirs_out)
    browser = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *ends, FOUND, *flags], pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        page = Tab(asks, tells)
        yield page
        page.said.clear()
        page._session = None
        page.call("Browser.close")
        browser.wait(timeout=20)
    finally:
        if browser.poll() is None:
            browser.kill()
            browser.wait()
        os.close(asks)
        os.close(tells)
