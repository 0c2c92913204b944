"""The page in a real browser: it works by pointer and by key, in two languages, on a phone, and asks nobody else."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from danlu.data.load import Data
from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.settings import Limits, ServeSettings
from danlu.deploy.serve.site import language_of
from tests.deploy.serve.running import Client, encoded, running
from tests.report.test_browser import FLAGS, find_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOKEN = "a-token-of-many-letters"
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
HOSTILE = (
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "一个很长的类别名字" * 30,
    "\u202eright to left",
)
INKED = """(() => { const c = document.getElementById('overlay');
  return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v > 100); })()"""
SLOW = """() => { const asked = window.fetch;
  window.fetch = (...all) => new Promise((done) => setTimeout(done, 600)).then(() => asked(...all)); }"""
WHITE = "document.getElementById('pad').getContext('2d').getImageData(140, 200, 1, 1).data[0]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine (DANLU_BROWSER may name one)")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *CAMERA])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def picture(data: Data) -> dict[str, Any]:
    pixels = np.asarray(data.test[0].picture)
    return {"name": "<b>digit</b> 数字.png", "mimeType": "image/png", "buffer": encoded(pixels)}


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    """Open the page of a server; at the end, see that nothing was logged and nothing was asked of anybody else."""
    complaints: list[str] = []
    contexts = []

    def opened(
        client: Client, width: int = 1280, scheme: str = "light", locale: str = "en-GB", log: bool = True
    ) -> Page:
        address = f"http://127.0.0.1:{client.port}/"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, locale=locale)
        context.grant_permissions(["camera", "clipboard-read", "clipboard-write"], origin=address)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(f"console: {message.text}") if log else None)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on("request", lambda request: complaints.append(request.url) if foreign(request.url, address) else None)
        page.goto(address)
        return page

    def foreign(url: str, address: str) -> bool:
        return not url.startswith((address, f"blob:{address}"))

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def until(page: Page, expression: str) -> None:
    """Wait until an expression holds; playwright's own way evaluates text in the page, which the policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def answered(page: Page, picture: dict[str, Any]) -> None:
    page.wait_for_selector("#work:visible")
    page.set_input_files("#file", files=[picture])
    page.wait_for_selector("#classes li >> nth=4")


@pytest.mark.browser
def test_a_chosen_picture_is_answered_and_explained(visit: Any, served: tuple[Client, Service], picture: Any) -> None:
    client, _ = served
    page = visit(client)
    answered(page, picture)
    wanted = client.predict(picture["buffer"]).json()["predictions"][0]["top"]
    assert page.locator("#classes bdi").all_inner_texts() == [entry["class"] for entry in wanted]
    shown = [float(text.strip("<> %")) for text in page.locator("#classes b").all_inner_texts()]
    assert shown == pytest.approx([100 * entry["probability"] for entry in wanted], abs=0.11)
    assert page.locator("#named").inner_text() == picture["name"]
    assert "in the network" in page.locator("#times").inner_text()
    assert page.locator("#spoken").text_content().startswith(wanted[0]["class"])
    page.click("[data-method=occlusion]")
    page.wait_for_selector("#legend .key")
    assert page.evaluate("document.getElementById('overlay').width") > 100
    assert page.evaluate(INKED)
    page.locator("#classes button").nth(1).click()
    until(page, "document.querySelectorAll('#classes button')[1].getAttribute('aria-pressed') === 'true'")
    page.wait_for_selector("#legend .key")
    assert page.locator("[data-method=activation]").is_disabled()


@pytest.mark.browser
def test_drop_paste_and_camera(visit: Any, served: tuple[Client, Service], picture: Any) -> None:
    page = visit(served[0])
    page.wait_for_selector("#work:visible")
    make = """(bytes) => { const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'dropped.png', { type: 'image/png' })); return data; }"""
    data = page.evaluate_handle(make, list(picture["buffer"]))
    page.dispatch_event("#stage", "drop", {"dataTransfer": data})
    page.wait_for_selector("#classes li >> nth=4")
    assert page.locator("#named").inner_text() == "dropped.png"
    paste = """(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))"""
    page.evaluate(paste, data)
    until(page, "document.getElementById('named').textContent === 'Pasted picture'")
    page.click("#camera")
    until(page, "document.getElementById('video').videoWidth > 0")
    page.click("#shoot")
    until(page, "document.getElementById('named').textContent === 'Camera picture'")
    assert page.evaluate("document.getElementById('video').srcObject === null")


@pytest.mark.browser
def test_all_by_keyboard(visit: Any, served: tuple[Client, Service]) -> None:
    page = visit(served[0])
    page.wait_for_selector("#work:visible")
    seen = []
    for _ in range(7):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("(e => e.id || e.dataset.set || e.className)(document.activeElement)"))
        outlines = [page.evaluate("getComputedStyle(document.activeElement).outlineStyle")]
        outlines.append(page.evaluate("getComputedStyle(document.querySelector('label[for=file]')).outlineStyle"))
        assert "solid" in outlines, seen[-1]
    assert seen == ["skip", "en", "zh", "file", "paste", "camera", "draw"]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "pad"
    page.keyboard.press("Space")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.wait_for_selector("#classes li >> nth=4")
    assert page.locator("#named").inner_text() == "Drawing"
    assert page.evaluate(WHITE) == 255
    page.focus("#clear")
    page.keyboard.press("Enter")
    assert page.evaluate(WHITE) == 0


@pytest.mark.browser
def test_drawing_by_pointer_on_a_phone(visit: Any, served: tuple[Client, Service]) -> None:
    page = visit(served[0], width=375)
    page.wait_for_selector("#work:visible")
    page.click("#draw")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 160, steps=5)
    page.mouse.up()
    page.wait_for_selector("#classes li >> nth=4")
    page.click("[data-method=occlusion]")
    page.wait_for_selector("#legend .key")
    assert page.locator("#stage").get_attribute("data-mode") == "picture"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_languages_and_a_phone(visit: Any, served: tuple[Client, Service], picture: Any, scheme: str) -> None:
    page = visit(served[0], width=375, scheme=scheme, locale="zh-CN")
    answered(page, picture)
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    assert page.locator("#answer-title").inner_text() == "结果"
    assert page.locator(".en:visible").count() == 0
    assert "网络计算" in page.locator("#times").inner_text()
    for width in (320, 375, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        for language in ("en", "zh"):
            page.click(f"[data-set={language}]")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("[data-set=en]")
    assert page.locator(".zh:visible").count() == 0
    assert page.locator("#draw").inner_text() == "Draw"


@pytest.mark.browser
def test_hostile_class_names_are_text(visit: Any, engine: Engine, picture: Any) -> None:
    hostile = Engine.__new__(Engine)
    hostile.__dict__.update(engine.__dict__)
    hostile.info = replace(engine.info, classes=(*HOSTILE, *engine.info.classes[4:]), model="<u>net</u>")
    with running(hostile) as (client, _):
        page = visit(client, width=375, log=False)  # the browser itself notes the 400 below
        answered(page, picture)
        page.click("#class-list summary")
        svg = {"name": "<i>x</i>.svg", "mimeType": "image/svg+xml", "buffer": b"<svg onload='window.broken = 1'>"}
        page.set_input_files("#file", files=[svg])
        page.wait_for_selector("#problem:visible")
        assert "SVG" in page.locator("#problem").inner_text()
        answered(page, picture)
        assert page.evaluate("window.broken") is None
        assert page.locator("main script, main u, main i, main img[src=x]").count() == 0
        assert page.locator("#model").inner_text() == "<u>net</u>"
        assert HOSTILE[0] in page.locator("#all-classes").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.browser
def test_the_page_asks_for_the_token(visit: Any, engine: Engine, picture: Any) -> None:
    with running(engine, ServeSettings(port=0, token=TOKEN)) as (client, _):
        page = visit(client, log=False)  # the browser itself notes every 401
        page.wait_for_selector("#token-form:visible")
        assert page.evaluate("document.activeElement.id") == "token"
        assert "lenet" not in page.content()
        # What no header can carry is refused by the page itself, and nothing wrong is kept.
        for wrong in ("wrong", "密码" * 8, f"{TOKEN}\u200b", "two words", " "):
            page.fill("#token", wrong)
            page.keyboard.press("Enter")
            page.wait_for_selector("#token-wrong:visible")
            until(page, "document.getElementById('token').value === ''")
            assert page.evaluate("sessionStorage.getItem('danlu-token')") is None
            page.reload()
            page.wait_for_selector("#token-form:visible")
        page.fill("#token", f" {TOKEN} ")
        page.keyboard.press("Enter")
        answered(page, picture)
        assert page.evaluate("sessionStorage.getItem('danlu-token')") == TOKEN
        assert TOKEN not in page.content()
        # A link carries no token, so the paths are told as text.
        assert page.locator("#card a").count() == 0
        assert page.locator("#card .en code").all_inner_texts() == ["/openapi.json", "/metrics"]
        page.reload()
        page.wait_for_selector("#work:visible")


@pytest.mark.browser
@pytest.mark.parametrize(("flips", "said"), [(0, "equal to the trained network"), (1, "answers that differ: 1")])
def test_equal_is_said_where_no_answer_differs(visit: Any, engine: Engine, flips: int, said: str) -> None:
    differing = Engine.__new__(Engine)
    differing.__dict__.update(engine.__dict__)
    parity = {**engine.info.parity, "validation": {**engine.info.parity["validation"], "flips": flips}}
    differing.info = replace(engine.info, parity=parity)
    with running(differing) as (client, _):
        page = visit(client)
        page.wait_for_selector("#card:visible")
        facts = page.locator("#facts").inner_text()
        assert said in facts
        assert ("equal" in facts) == (flips == 0)
        assert page.locator("#card .en a").count() == 2


@pytest.mark.browser
def test_what_the_browser_cannot_show(visit: Any, served: tuple[Client, Service]) -> None:
    page = visit(served[0], log=False)  # the browser itself notes the 400 below
    page.wait_for_selector("#work:visible")
    page.set_input_files("#file", files=[{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}])
    page.wait_for_selector("#problem:visible")
    page.wait_for_selector(".nopreview:visible")
    assert page.locator(".nopreview").inner_text() == "The browser cannot show this file."
    shown = io.BytesIO()
    Image.new("L", (20, 20)).save(shown, "TIFF")
    page.set_input_files("#file", files=[{"name": "a.tif", "mimeType": "image/tiff", "buffer": shown.getvalue()}])
    page.wait_for_selector("#classes li >> nth=4")
    page.wait_for_selector("#readable:visible")
    assert page.locator(".nopreview").inner_text() == "The browser cannot show this file. The model can read it."


@pytest.mark.browser
@pytest.mark.parametrize("late", [False, True])
def test_a_cleared_drawing_has_no_answer(visit: Any, served: tuple[Client, Service], late: bool) -> None:
    page = visit(served[0])
    page.wait_for_selector("#work:visible")
    if late:
        page.evaluate(SLOW)
    page.click("#draw")
    page.locator("#pad").click()
    if late:  # cleared while the server is asked
        page.wait_for_selector("#answer[aria-busy=true]")
    else:
        page.wait_for_selector("#classes li >> nth=4")
    page.click("#clear")
    page.wait_for_timeout(1500)
    assert page.locator("#classes li").count() == 0
    assert page.locator("#answer").get_attribute("aria-busy") == "false"
    assert page.locator("#named").text_content() == ""
    assert "appear here" in page.locator("#waiting").inner_text()
    assert not page.locator("#why").is_visible()
    page.locator("#pad").click()
    page.wait_for_selector("#classes li >> nth=4")


@pytest.mark.browser
def test_a_busy_server_is_asked_again(visit: Any, engine: Engine, picture: Any) -> None:
    with running(engine, ServeSettings(port=0, limits=Limits(drain_seconds=1))) as (client, service):
        page = visit(client, log=False)  # likewise every 503
        page.wait_for_selector("#work:visible")
        service.batcher.draining = True
        page.set_input_files("#file", files=[picture])
        until(page, "document.getElementById('waiting').textContent.includes('busy')")
        service.batcher.draining = False
        page.wait_for_selector("#classes li >> nth=4")


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr,zh;q=0.2", "zh"),
        ("en;q=0.1, zh-TW;q=0.5", "zh"),
        ("de", "en"),
        ("zh;q=x", "en"),
        (",".join(["x"] * 100_000), "en"),
    ],
    ids=range(8),
)
def test_language_of_the_reader(header: str | None, wanted: str) -> None:
    assert language_of(header) == wanted
