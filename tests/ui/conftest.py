"""One browser for each module of tests, and a page in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from kit_browser import browsing, launch


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = launch(playwright)
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with browsing(browser) as found:
        yield found
