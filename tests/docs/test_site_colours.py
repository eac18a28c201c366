"""The site in a browser that asks for dark or light pages."""

from __future__ import annotations

import pytest
from browser import chromium  # noqa: F401


@pytest.mark.parametrize(("system", "scheme"), [("light", "default"), ("dark", "slate")])
def test_first_visit_has_colours_of_the_system_before_the_theme_has_loaded(site, browser, system, scheme):
    page = browser.new_page(color_scheme=system)
    page.route("**/bundle*.js", lambda route: route.abort())
    page.goto((site / "index.html").as_uri())
    assert page.get_attribute("body", "data-md-color-scheme") == scheme
    page.close()
