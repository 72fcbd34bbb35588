"""The page in a real browser without a network: nothing is asked for, nothing complains, hover tells."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.report.documents import Finished, artifact, harmful, probed
from worker.engine.report.page import report_page
from worker.engine.report.schema import Report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A mark is looked at before the run is made that the pages are of.
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
SCHEMES = ("light", "dark")
WIDTHS = (1280, 390)
CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const page = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const bad = [];
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const ink = channels(node.closest("svg") ? style.fill : style.color);
    const pair = [luminance(ink), luminance(page(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) bad.push(`${node.tagName}.${node.className.baseVal ?? node.className} ` +
      `${texts.currentNode.data.trim().slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # A container without user namespaces has no sandbox; the page is our own.
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page in a window of its own, offline, with what it complained about and asked for."""

    def __init__(self, browser: Any, file: Path, scheme: str = "light", width: int = 1280) -> None:
        self._context = browser.new_context(
            offline=True, color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.page = self._context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_opens_offline_without_complaint(
    browser: Any, finished: Finished, scheme: str, width: int
) -> None:
    file = artifact(finished[0], "report.html")
    with Opened(browser, file, scheme, width) as opened:
        assert opened.complaints == []
        assert opened.requests == [file.as_uri()]
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.page.locator("section h2").count() == 10


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_is_legible(browser: Any, report: Report, scheme: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_page(probed(report)), encoding="utf-8")
    with Opened(browser, file, scheme) as opened:
        opened.page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        assert opened.page.evaluate(CONTRAST) == []


def test_pointing_at_a_mark_tells_its_recipe_and_the_reason(
    browser: Any, finished: Finished, report: Report
) -> None:
    with Opened(browser, artifact(finished[0], "report.html")) as opened:
        delivered = next(each for each in report.candidates if each.delivered)
        mark = opened.page.locator(
            f"xpath=//*[local-name()='a'][@*[local-name()='href']='#candidate-{delivered.number}']/*"
        ).first
        # Not to the edge of the window, where the list of sections lies above it.
        mark.evaluate("mark => mark.scrollIntoView({block: 'center'})")
        mark.hover()
        told = opened.page.locator("#tip").inner_text()
        assert delivered.reason in told
        assert delivered.summary in told
        mark.click()
        row = opened.page.locator(f"#candidate-{delivered.number}")
        assert row.is_visible(), "the folded table is opened"


def test_a_mark_that_is_reached_by_keyboard_tells_the_same(browser: Any, finished: Finished) -> None:
    with Opened(browser, artifact(finished[0], "report.html")) as opened:
        opened.page.locator("#candidates svg a").first.focus()
        assert opened.page.locator("#tip").inner_text().startswith("candidate ")
        opened.page.keyboard.press("Escape")
        assert not opened.page.locator("#tip").is_visible()


def test_harm_in_the_users_texts_is_shown_and_does_none(browser: Any, report: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_page(harmful(report)), encoding="utf-8")
    with Opened(browser, file) as opened:
        opened.page.locator("#candidates svg a").first.focus()
        assert "<script>" in opened.page.locator("#tip").inner_text()
        assert "<script>" in opened.page.locator("h1").inner_text()
        assert opened.complaints == []
        assert opened.requests == [file.as_uri()]
