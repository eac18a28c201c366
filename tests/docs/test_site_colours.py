"""The site in a browser that asks for dark or light pages."""

from __future__ import annotations

import pytest
from browser import chromium  # noqa: F401


# The colours of every moment at which the browser may paint: between two parts of a page, when all observers have run.
RECORD = """
window.seen = new Set();
const record = () => document.body && seen.add(document.body.dataset.mdColorScheme);
new MutationObserver(() => Promise.resolve().then(record)).observe(document, { childList: true, subtree: true });
"""


@pytest.mark.parametrize(("system", "scheme"), [("light", "default"), ("dark", "slate")])
def test_first_visit_has_colours_of_the_system_from_the_first_paint(site, browser, system, scheme):
    page = browser.new_page(color_scheme=system)
    page.route("**/bundle*.js", lambda route: route.abort())
    page.add_init_script(RECORD)
    page.goto((site / "index.html").as_uri())
    assert page.evaluate("[...seen]") == [scheme]
    page.close()
