"""The page in a real browser: nothing logged, nothing requested, nothing cut off, every control works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from danlu.report import build_report
from tests.report.runs import write_bare_run, write_full_run, write_nasty_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


def find_browser() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("DANLU_BROWSER") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine (DANLU_BROWSER may name one)")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports 报告")
    writers = {"full": write_full_run, "nasty": write_nasty_run, "bare": write_bare_run}
    return {name: build_report(write(folder / name)) for name, write in writers.items()}


@pytest.fixture
def visit(browser: Browser, reports: dict[str, Path]) -> Iterator[Any]:
    """Open a report; at the end, see that nothing was logged and nothing was asked of the network."""
    complaints: list[str] = []
    contexts = []

    def opened(name: str, width: int = 1280, scheme: str = "light", locale: str = "en-GB") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, locale=locale)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on("request", lambda request: complaints.append(request.url) if foreign(request.url) else None)
        page.goto(reports[name].as_uri())
        return page

    def foreign(url: str) -> bool:
        return not url.startswith("data:") and url not in {path.as_uri() for path in reports.values()}

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize(
    ("name", "scheme"), [("full", "light"), ("nasty", "dark"), ("bare", "light")], ids=["full", "nasty", "bare"]
)
def test_nothing_is_cut_off(visit: Any, name: str, scheme: str) -> None:
    page = visit(name, scheme=scheme)
    for width in (390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        for language in ("en", "zh"):
            page.click(f"[data-set={language}]")
            for wanted in ("false", "true"):
                opened = f"document.querySelectorAll('details').forEach((element) => {{ element.open = {wanted}; }})"
                page.evaluate(opened)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
    headings = page.locator("section[id] h2:visible")
    assert headings.count() == 10


@pytest.mark.parametrize(("locale", "shown", "hidden"), [("en-GB", "Training", "训练"), ("zh-CN", "训练", "Training")])
def test_language_follows_the_reader_and_the_switch(visit: Any, locale: str, shown: str, hidden: str) -> None:
    page = visit("full", locale=locale)
    heading = page.locator("#training h2")
    assert heading.inner_text() == shown
    assert page.locator("html").get_attribute("lang") == ("zh-Hans" if locale == "zh-CN" else "en")
    page.click("[data-set=en]" if locale == "zh-CN" else "[data-set=zh]")
    assert heading.inner_text() == hidden
    chosen = page.locator(".languages [aria-pressed=true]").inner_text()
    assert chosen == ("English" if hidden == "Training" else "中文")
    assert page.locator("nav").get_attribute("aria-label") == ("Contents" if hidden == "Training" else "目录")


def test_chinese_page_shows_no_english_words_of_ours(visit: Any) -> None:
    page = visit("full", locale="zh-CN")
    assert page.locator(".en:visible").count() == 0
    assert page.locator(".zh:visible").count() > 50


def test_charts_read_out_by_pointer_and_by_key(visit: Any) -> None:
    page = visit("full")
    chart, tip = page.locator("[data-chart]").nth(1), page.locator(".tip")
    chart.scroll_into_view_if_needed()
    chart.hover(position={"x": 200, "y": 90})
    assert tip.is_visible()
    assert "Epoch" in tip.inner_text()
    assert "validation" in tip.inner_text()
    page.mouse.move(2, 2)
    assert not tip.is_visible()
    chart.focus()
    page.keyboard.press("End")
    assert "Epoch 20" in tip.inner_text()
    page.keyboard.press("ArrowLeft")
    assert "Epoch 19" in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_confusion_cells_read_out(visit: Any) -> None:
    page = visit("full")
    page.locator(".cell.correct").nth(3).hover()
    assert page.locator(".tip").inner_text().startswith("3 → 3: ")


def test_tables_sort(visit: Any) -> None:
    page = visit("full")
    table = page.locator("#evaluation table.sortable")

    def column() -> list[float]:
        texts = table.locator("tbody tr td:nth-child(4)").all_inner_texts()
        return [float(text.split("\u202f")[0]) for text in texts]

    button = table.locator("thead button").nth(3)
    button.focus()
    page.keyboard.press("Enter")
    falling = column()
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > falling[-1]
    button.click()
    assert column() == sorted(falling)
    assert table.locator("thead th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_copy_gives_the_command(visit: Any) -> None:
    page = visit("full")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click(".copy")
    page.wait_for_selector(".copy.copied")
    assert page.evaluate("navigator.clipboard.readText()") == "danlu run digits --seed 0 --set epochs=20"


def test_regions_that_scroll_are_reached_by_tab(visit: Any) -> None:
    page = visit("nasty", width=390)
    cut = "(e) => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1"
    found = page.locator(".scroll:visible").evaluate_all(f"(all) => all.map((e) => [e.tabIndex === 0, ({cut})(e)])")
    assert [True, True] in found
    assert all(reached == wide for reached, wide in found)


def test_without_script_the_page_is_whole(browser: Browser, reports: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.goto(reports["full"].as_uri())
    assert page.locator("#training h2").inner_text() == "Training"
    assert page.locator(".chart .line.validation").first.is_visible()
    context.close()


def test_print_is_light_and_open(visit: Any) -> None:
    page = visit("full", scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("nav").is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
