"""The page in a real browser: opens from disk, loads nothing, logs no error, and works."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redpencil.report import build_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(browser: Any, run_folder: Path) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    opened.complaints, opened.requested = [], []
    opened.on("console", lambda m: opened.complaints.append(m.text))
    opened.on("pageerror", lambda e: opened.complaints.append(str(e)))
    opened.on("request", lambda r: opened.requested.append(r.url))
    opened.goto(build_report(run_folder).resolve().as_uri())
    opened.wait_for_selector("html[data-drawn]", timeout=60_000)
    yield opened
    opened.close()


def weights(page: Any) -> list[float]:
    cells = page.locator("#rows tr:not(.detail) td:nth-child(3)")
    return [float(text) for text in cells.all_inner_texts()]


def test_opens_quietly_and_draws(page: Any):
    assert page.complaints == []
    assert [u for u in page.requested if not u.startswith(("file:", "data:", "blob:"))] == []
    assert page.locator(".chart .main-svg").count() >= 10
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("h1").inner_text() == "It worked"


def test_sorts_filters_and_turns(page: Any):
    first = weights(page)
    assert len(first) == 25 and first == sorted(first, reverse=True) and min(first) > 0.5
    page.click("[data-sort=weight]")
    assert weights(page) == sorted(weights(page))
    page.click("[data-show=all]")
    assert page.inner_text("#found") == "500 pairs"
    page.click("#next")
    assert page.inner_text("#where") == "26 to 50 of 500"


def test_searches_and_opens_a_pair(page: Any):
    page.click("[data-show=all]")
    page.fill("#find", "film number 17.")
    playwright.expect(page.locator("#found")).to_have_text("2 pairs")
    page.locator("#rows .open").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("tr.detail .sides .text").count() == 2
    assert page.locator("tr.detail mark").count() >= 1
    page.keyboard.press("Enter")
    assert page.locator("tr.detail").count() == 0


def test_differences_are_those_of_the_words(page: Any):
    script = """([a, b]) => differences(a, b).map(
        (side) => side.filter((n) => n.nodeName === 'MARK').map((n) => n.textContent.trim()))"""
    marked = page.evaluate(script, ["the film was good indeed", "the film was dull"])
    assert marked == [["good indeed"], ["dull"]]
    assert page.evaluate(script, ["same", "same"]) == [[], []]
    assert page.complaints == []
