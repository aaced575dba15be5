"""A real Chromium for tests of the page."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright, expect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import browser  # our own tool, which is no package

expect.set_options(timeout=20_000)  # the machine is shared

ROOT = Path(__file__).resolve().parent.parent
OURS = ("http://127.0.0.1:", "data:", "blob:")
EXPECTED = re.compile("Failed to load resource|blocked by CORS policy")


def launch(playwright: Playwright) -> Browser:
    """Chromium, with a profile of its own."""
    command = [sys.executable, str(ROOT / "tools" / "browser.py")]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return playwright.chromium.launch(executable_path=path, args=browser.FLAGS)


@contextmanager
def browsing(browser: Browser, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page without a past; an error in its console or a request elsewhere fails the test."""
    said: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": height})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: said.append(str(error)))
    # A refused request is logged by the browser itself; that is the test's own matter.
    page.on(
        "console",
        lambda m: m.type == "error" and not EXPECTED.search(m.text) and said.append(m.text),
    )
    page.on("request", lambda r: r.url.startswith(OURS) or said.append(r.url))
    yield page
    context.close()
    assert not said, said


def visit(page: Page, url: str) -> None:
    """Open the inspector and wait until it works."""
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
