"""Headless Chromium, for the tests that look at pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest


playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module", name="browser")
def chromium() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        except playwright.Error as error:
            pytest.skip(f"Chromium could not be started: {error}")
        yield browser
        browser.close()
