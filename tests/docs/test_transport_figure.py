"""The figure of `docs/concepts/transport.md` in a browser, and its plans next to those of the library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from browser import chromium, playwright  # noqa: F401
from tiny import REPOSITORY

from hf_optical.transport import Sinkhorn, transport_plan


FIGURE = REPOSITORY / "docs" / "concepts" / "transport_figure.html"


@pytest.fixture(params=[1280, 390])
def page(browser, request) -> Iterator[playwright.Page]:
    """The figure, wide and narrow; fails on browser errors and on requests for anything else."""
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    faults = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url == FIGURE.as_uri() else faults.append(asked.url))
    page.goto(FIGURE.as_uri())
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param
    page.close()
    assert faults == []


def assert_plan_is_that_of_the_library(page: playwright.Page) -> torch.Tensor:
    cost, shown = (torch.tensor(page.evaluate(name), dtype=torch.float64) for name in ("cost", "plan"))
    solver = Sinkhorn(epsilon=page.evaluate("10 ** slider.value"), max_iterations=100_000, tolerance=1e-10)
    expected = transport_plan(cost[None], solver=solver)[0]
    assert (shown - expected).abs().max() <= 1e-6
    return shown


def test_dragged_points_and_epsilon_change_the_plan(page):
    first = assert_plan_is_that_of_the_library(page)
    # "umeme" goes to "electricity" although "produces" is nearer.
    assert first[4].argmax() == 3 and page.evaluate("cost[4][2] < cost[4][3]")

    maji, mto = (page.get_by_role("button", name=word) for word in ("Maji", "mto"))
    target = mto.bounding_box()
    maji.locator("circle").nth(1).hover()
    page.mouse.down()
    page.mouse.move(target["x"] + target["width"] / 2 + 40, target["y"] + target["height"] / 2 + 40, steps=3)
    page.mouse.up()
    dragged = assert_plan_is_that_of_the_library(page)
    assert (dragged - first).abs().max() > 0.05
    shown = page.locator("tbody tr").first.locator("td").all_inner_texts()
    assert shown == [f"{100 * mass:.0f}" for mass in dragged[0].tolist()]

    page.locator("#epsilon").press("End")
    soft = assert_plan_is_that_of_the_library(page)
    assert soft.std() < dragged.std() / 2
    page.locator("#epsilon").press("Home")
    assert_plan_is_that_of_the_library(page)


def test_training_steps_lower_the_loss_and_keys_move_points(page):
    losses = [float(page.locator("#loss").inner_text())]
    for _ in range(5):
        page.click("#learn")
        losses.append(float(page.locator("#loss").inner_text()))
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.7 * losses[0]

    page.click("#reset")
    before = page.evaluate("points.student[0].x")
    page.get_by_role("button", name="Maji").press("ArrowRight")
    assert page.evaluate("points.student[0].x") == pytest.approx(before + 8 / 250)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(browser, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(FIGURE.as_uri())
    paper, ink = (
        sum(map(int, page.evaluate(f"getComputedStyle(document.body).{name}.match(/[0-9]+/g)")[:3]))
        for name in ("backgroundColor", "color")
    )
    assert (paper > ink) == (scheme == "light") and abs(paper - ink) > 450
    page.close()
