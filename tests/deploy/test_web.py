"""The page that classifies, in a real browser: as proved, in both languages, by keyboard, on a phone."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from danlu.core.errors import InputError
from danlu.core.files import cache_home
from danlu.data.load import Data
from danlu.deploy.predict import predict
from danlu.deploy.targets import export_to
from danlu.deploy.web import PACKAGE, VERSION, web_contents
from tests.report.test_browser import FLAGS, find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


def package() -> Path:
    """Return the package where this machine has it; a test never fetches it."""
    told = os.environ.get("DANLU_ORT_WEB")
    path = Path(told) if told else cache_home() / "npm" / f"{PACKAGE}-{VERSION}.tgz"
    if not path.is_file():
        pytest.skip(f"{path} is not here (DANLU_ORT_WEB may name it; npm pack {PACKAGE}@{VERSION} fetches it)")
    return path


@pytest.fixture(scope="module")
def folder(lenet: tuple[Path, dict[str, Any]], data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("web 网页") / "model.web"
    # A copy: what is exported is written into the run's record, which others read.
    run = shutil.copytree(lenet[0], target.with_name("run"))
    export_to(run, data, "web", out=target, threads=1, package=package())
    return target


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 - as the class it is
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


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


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Any]:
    """Open the page; at the end, see that nothing was logged and nothing was asked of another host."""
    complaints: list[str] = []
    contexts = []

    def opened(
        width: int = 1100,
        locale: str = "en-GB",
        scheme: str = "light",
        before: Callable[[Page], None] | None = None,
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, locale=locale, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: _note(request.url))
        if before is not None:
            before(page)
        page.goto(address)
        if before is None:
            page.wait_for_selector("body[data-ready=yes]")
        return page

    def _note(url: str) -> None:
        if not url.startswith((address, "blob:", "data:")):
            complaints.append(url)

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page: Page) -> list[tuple[str, float]]:
    """Return the classes with their shares in per cent."""
    rows = page.locator("#answer li")
    page.wait_for_selector("#answer .share")
    return [
        (rows.nth(i).locator(".name").inner_text(), float(rows.nth(i).locator(".share").inner_text().rstrip(" %")))
        for i in range(rows.count())
    ]


def picture(data: Data, path: Path, index: int = 3) -> Path:
    """Write a digit as a larger colour picture."""
    pixels = np.asarray(data.test[index].picture)[..., 0]
    Image.fromarray(pixels).convert("RGB").resize((90, 120), Image.Resampling.BICUBIC).save(path)
    return path


def test_answers_like_predict(visit: Any, folder: Path, data: Data, tmp_path: Path) -> None:
    path = picture(data, tmp_path / "digit.png")
    page = visit()
    page.set_input_files("#file", str(path))
    found = shown(page)
    (wanted,) = predict(folder / "model.onnx", [path], top=5)
    for (name, share), row in zip(found, wanted["top"], strict=True):
        assert name == row["class"]
        assert share == pytest.approx(100 * row["probability"], abs=0.1)
    assert "90 × 120" in page.locator("#timing").inner_text()


def test_the_golden_pictures_agree_in_this_browser(visit: Any) -> None:
    text = visit().locator("#check").inner_text()
    assert "Checked here: 2 golden pictures" in text


def test_drop_and_paste(visit: Any, data: Data, tmp_path: Path) -> None:
    encoded = base64.b64encode(picture(data, tmp_path / "digit.png").read_bytes()).decode()
    page = visit()
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, encoded]) => {
                const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
                document.querySelector("#answer").replaceChildren();
                const init = { bubbles: true, cancelable: true };
                document.body.dispatchEvent(kind === "drop"
                    ? new DragEvent("drop", { ...init, dataTransfer: transfer })
                    : new ClipboardEvent("paste", { ...init, clipboardData: transfer }));
            }""",
            [kind, encoded],
        )
        assert len(shown(page)) == 5, kind


def test_drawing_with_pointer_and_keyboard(visit: Any) -> None:
    page = visit()
    page.get_by_role("tab", name="Draw").click()
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 40, steps=8)
    page.mouse.up()
    assert len(shown(page)) == 5
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#answer .share").count() == 0
    page.locator("#canvas").focus()
    page.keyboard.press("Space")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    assert len(shown(page)) == 5


def test_the_pen_of_the_keyboard_is_seen_and_lifted(visit: Any) -> None:
    page = visit()
    page.get_by_role("tab", name="Draw").click()
    canvas = page.locator("#canvas")
    assert canvas.get_attribute("role") == "application"
    assert "Arrow keys move the pen" in (canvas.get_attribute("aria-label") or "")
    drawn = "document.getElementById('canvas').toDataURL()"
    empty = page.evaluate(drawn)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    moved = page.evaluate(drawn)
    assert moved != empty
    page.keyboard.press("ArrowRight")
    assert page.evaluate(drawn) not in (empty, moved)
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate(drawn) == empty, "the pen is lifted, its ring is gone"
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(drawn) == moved, "it is back in the middle, and draws nothing"
    page.locator("#dark").click()
    assert page.evaluate(drawn) != empty
    page.locator("#dark").click()
    assert page.evaluate(drawn) == empty


def test_a_cleared_drawing_has_no_answer(visit: Any, data: Data, tmp_path: Path) -> None:
    page = visit()
    page.set_input_files("#file", str(picture(data, tmp_path / "digit.png")))
    found = shown(page)
    page.get_by_role("tab", name="Draw").click()
    assert page.locator("#answer .share").count() == 0, "the picture's answer is not the drawing's"
    page.locator("#canvas").click()
    page.get_by_role("button", name="Clear").click()
    page.wait_for_timeout(600)
    assert page.locator("#answer .share").count() == 0
    page.locator("#canvas").click()
    shown(page)
    page.get_by_role("tab", name="File").click()
    assert shown(page) == found


def test_a_picture_given_while_the_network_loads_is_answered(visit: Any, data: Data, tmp_path: Path) -> None:
    path = str(picture(data, tmp_path / "digit.png"))
    held: list[Any] = []
    page = visit(before=lambda page: page.route("**/model.onnx", lambda route: held.append(route)))
    page.set_input_files("#file", path)
    end = time.monotonic() + 30
    while not held and time.monotonic() < end:
        page.wait_for_timeout(20)
    assert page.locator("#status").inner_text() == "loading the network…"
    held[0].continue_()
    assert len(shown(page)) == 5
    assert page.locator("#shown").is_visible()


def test_everything_is_reached_by_keyboard(visit: Any) -> None:
    page = visit()
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')"))
    assert reached == ["language", "tab-file", "file", "README.md", "runtime/NOTICE.txt", reached[-1]]
    page.locator("#tab-file").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-draw"
    assert page.locator("#panel-draw").is_visible()


def test_chinese_on_a_phone(visit: Any, data: Data, tmp_path: Path) -> None:
    page = visit(width=360, locale="zh-CN", scheme="dark")
    page.set_input_files("#file", str(picture(data, tmp_path / "数字.png")))
    shown(page)
    assert page.locator("html").get_attribute("lang") == "zh"
    assert "图片里是什么" in page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("button", name="English").click()
    assert page.locator("html").get_attribute("lang") == "en"
    assert len(shown(page)) == 5


def test_what_is_no_picture_is_said(browser: Browser, address: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    page.set_input_files("#file", str(tmp_path / "text.png"))
    page.wait_for_selector("#status.wrong")
    assert "cannot be read" in page.locator("#status").inner_text()
    page.close()


def test_a_network_that_answers_otherwise_is_shown(browser: Browser, address: str, data: Data, tmp_path: Path) -> None:
    page = browser.new_page()
    page.route("**/model.json", lambda route: route.fulfill(json=_spoilt(route.fetch().json())))
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    assert "gives other answers" in page.locator("#check").inner_text()
    assert "gives other answers" in page.locator("#status.wrong").inner_text()
    page.set_input_files("#file", str(picture(data, tmp_path / "digit.png")))
    shown(page)
    page.wait_for_selector("#status.wrong")
    assert "gives other answers" in page.locator("#status").inner_text()
    above = "document.getElementById('status').compareDocumentPosition(document.getElementById('answer'))"
    assert page.evaluate(above) == 4, "it stands before the answer"
    page.get_by_role("button", name="中文").click()
    assert "结果与导出时证明的不同" in page.locator("#status.wrong").inner_text()
    page.close()


def _spoilt(facts: dict[str, Any]) -> dict[str, Any]:
    facts["golden"]["logits"][0][0] += 1
    return facts


def test_the_folder_is_whole(folder: Path) -> None:
    facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert facts["bytes"]["model"] == (folder / "model.onnx").stat().st_size
    assert "MIT License" in (folder / "runtime/NOTICE.txt").read_text(encoding="utf-8")
    for page in ("index.html", "page.js", "page.css"):
        text = (folder / page).read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text


def test_another_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.deploy.artifact import ArtifactInfo

    info = ArtifactInfo("classification", "m", "fp32", ("a",), (8, 8), 1, (), {}, {})
    (tmp_path / "other.tgz").write_bytes(b"other")
    with pytest.raises(InputError, match="as it was published"):
        web_contents(info, b"", tmp_path / "other.tgz", False)
    with pytest.raises(InputError, match="cannot be read"):
        web_contents(info, b"", tmp_path / "none.tgz", False)
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match="--download"):
        web_contents(info, b"", None, False)
