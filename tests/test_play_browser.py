# SPDX-License-Identifier: Apache-2.0
"""FRAMEBOY in a real browser: Chromium without a window walks, leaves, comes back, and looks.

`pytest tests/test_play_browser.py --screenshots docs/images` renews the pictures of the README.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from chromium import CHROMIUM, FLAGS, serve
from rtfm_rt.media import psnr

DRAWN = "#screen[data-frame]"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; apt-get install chromium runs this test"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server with the bundled model is."""
    with serve("--worlds", str(tmp_path_factory.mktemp("browser") / "worlds")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield made
        made.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page in a screen of that size; nothing may go wrong or come from elsewhere."""
    contexts, complaints, hosts = [], [], set()

    def open_page(width: int, height: int, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda said: complaints.append(said.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(address)
        page.wait_for_selector(DRAWN)
        return page

    yield open_page
    for context in contexts:
        context.close()
    refused = "status of 400 (Bad Request)"  # of which browsers make a note
    assert [text for text in complaints if refused not in text] == []
    assert hosts == {urlsplit(address).netloc}


@pytest.fixture
def photograph(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    folder = Path(request.config.getoption("--screenshots") or tmp_path)

    def take(page: Any, name: str) -> None:
        size = page.viewport_size
        page.screenshot(path=folder / name)
        with Image.open(folder / name) as image:
            smaller = image.convert("RGB").resize((size["width"], size["height"]))
        smaller.save(folder / name, optimize=True)

    return take


def screen(page: Any) -> np.ndarray:
    """What the canvas shows, uint8 (height, width, 3)."""
    shown = page.evaluate(
        "() => { const shown = document.getElementById('screen');"
        "const copy = new OffscreenCanvas(shown.width, shown.height);"
        "const pen = copy.getContext('2d', { willReadFrequently: true });"
        "pen.drawImage(shown, 0, 0);"
        "const { data } = pen.getImageData(0, 0, shown.width, shown.height);"
        "return { shape: [shown.height, shown.width, 4], data: Array.from(data) } }"
    )
    return np.array(shown["data"], np.uint8).reshape(shown["shape"])[..., :3]


def settle(page: Any) -> int:
    """Waits until the walker stands still and no more frames come; the number of the last."""
    last = -1
    while True:
        page.wait_for_selector("#screen[data-moving=false]")
        now = int(page.get_attribute(DRAWN, "data-frame"))
        if now == last:
            return now
        last = now
        time.sleep(0.25)


def distance(page: Any) -> float:
    return float(page.get_attribute(DRAWN, "data-distance"))


def fits(page: Any, width: int, height: int) -> bool:
    """Whether every part of the case lies within the screen, with a margin, and apart."""
    boxes = [part.bounding_box() for part in page.locator(".case > *").all()]
    return all(
        b["x"] >= 8 and b["x"] + b["width"] <= width - 8 and b["y"] + b["height"] <= height - 8
        for b in boxes
    ) and not any(
        a["x"] < b["x"] + b["width"] and b["x"] < a["x"] + a["width"]
        and a["y"] < b["y"] + b["height"] and b["y"] < a["y"] + a["height"]
        for i, a in enumerate(boxes) for b in boxes[:i]
    )  # fmt: skip


def walk(page: Any, key: str, metres: float) -> None:
    page.keyboard.down(key)
    page.wait_for_function(f"() => document.getElementById('screen').dataset.distance >= {metres}")
    page.keyboard.up(key)


def drag(page: Any, stick: str, right: float, down: float, seconds: float) -> None:
    box = page.locator(stick).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right * box["width"] / 3, y + down * box["height"] / 3, steps=3)
    time.sleep(seconds)
    page.mouse.up()


def go_home(page: Any) -> None:
    page.keyboard.press("h")
    page.wait_for_function("() => document.getElementById('screen').dataset.distance === '0.000'")
    settle(page)


def test_leave_and_come_back(opened: Any, photograph: Any) -> None:
    page = opened(1280, 800)
    first_number, first = settle(page), screen(page)
    assert first.std() > 10
    walk(page, "w", 0.8)
    settle(page)
    away = screen(page)
    drag(page, "#look", 1, 0, 1.0)
    settle(page)
    turned = screen(page)
    assert psnr(first, away) < 22 and psnr(away, turned) < 22
    assert settle(page) > first_number + 10
    assert int(page.inner_text("#remembered")) > 1
    drag(page, "#walk", 0.7, 0.7, 0.5)  # back and to the side

    go_home(page)
    back = screen(page)
    assert psnr(first, back) > 24, "the room is not what it was"
    assert psnr(first, back) > psnr(first, away) + 5
    assert page.inner_text("#support-text") == "100 %"
    page.keyboard.press("b")
    page.wait_for_selector("#notice", state="hidden")
    page.keyboard.down("w")
    time.sleep(0.5)
    photograph(page, "frameboy.png")


def test_a_wish_comes_after_the_stick_that_was_let_go(opened: Any) -> None:
    page = opened(1280, 800)
    page.evaluate(  # a busy machine: the sticks are told late
        "() => { const next = requestAnimationFrame; window.requestAnimationFrame = (f) =>"
        "f.name === 'tick' ? setTimeout(() => f(performance.now()), 300) : next(f) }"
    )
    for seconds in (0.6, 0.7, 0.8):
        drag(page, "#walk", 0.7, 0.7, seconds)
        assert distance(page) > 0.1
        go_home(page)


def test_buttons_and_pictures(opened: Any, tmp_path: Path) -> None:
    page = opened(1280, 800)
    settle(page)
    first = screen(page)
    page.click("#remember")
    page.wait_for_selector("body[data-memory=off]")
    assert page.get_attribute("#remember", "aria-pressed") == "false"
    assert "Memory off" in page.inner_text("#notice")
    drag(page, "#look", -1, 0, 0.5)
    settle(page)
    assert int(page.inner_text("#remembered")) <= 4
    page.keyboard.press("m")
    page.wait_for_selector("body[data-memory=on]")

    page.keyboard.press("2")
    settle(page)
    second = screen(page)
    assert psnr(first, second) < 18
    assert page.get_attribute("[data-name=rooms-2]", "aria-pressed") == "true"

    Image.new("RGB", (300, 200), (190, 60, 40)).save(tmp_path / "red.png")
    page.set_input_files("#upload", tmp_path / "red.png")
    page.wait_for_selector("#notice:text('cut to fit')")
    settle(page)
    assert psnr(second, screen(page)) < 20

    page.reload()
    page.wait_for_selector(DRAWN)
    settle(page)
    assert psnr(first, screen(page)) > 40  # a new walk, the same noise


def save(page: Any) -> str:
    """The name of the world that the notice tells."""
    page.keyboard.press("k")
    page.wait_for_selector("#notice:has-text('Saved as')")
    told = re.search(r"Saved as (world-\d+)", page.inner_text("#notice"))
    assert told
    settle(page)
    return told[1]


def load(page: Any, name: str) -> None:
    page.click("#load")
    page.click(f"[data-world={name}]")
    page.wait_for_selector(f"#notice:has-text('{name} is back')")
    settle(page)


def test_a_world_outlives_its_page(opened: Any, tmp_path: Path) -> None:
    page = opened(1280, 800)
    settle(page)
    walk(page, "w", 0.4)
    drag(page, "#look", 0.8, 0, 0.5)
    settle(page)
    name = save(page)
    kept, remembered = screen(page), page.inner_text("#remembered")
    with page.expect_download() as download:
        page.click("#notice a")
    download.value.save_as(tmp_path / "mine.world")
    assert download.value.suggested_filename == f"{name}.world"

    walk(page, "s", 1.0)
    settle(page)
    assert psnr(kept, screen(page)) < 22
    load(page, name)
    assert np.array_equal(screen(page), kept)  # the same place, to the bit
    assert page.inner_text("#remembered") == remembered

    page.reload()
    page.wait_for_selector(DRAWN)
    settle(page)
    assert not np.array_equal(screen(page), kept)
    save(page)
    page.keyboard.press("l")
    page.wait_for_selector("#menu:visible")
    page.keyboard.press("ArrowDown")  # from the newest, which the list begins with
    page.keyboard.press("Enter")
    page.wait_for_selector(f"#notice:has-text('{name} is back')")
    settle(page)
    assert np.array_equal(screen(page), kept)

    page.keyboard.press("1")
    settle(page)
    page.set_input_files("#world-file", tmp_path / "mine.world")
    page.wait_for_selector("#notice:has-text('Your world is back')")
    settle(page)
    assert np.array_equal(screen(page), kept)


def test_a_file_that_is_no_world(opened: Any, tmp_path: Path) -> None:
    page = opened(1280, 800)
    settle(page)
    before = screen(page)
    (tmp_path / "my.world").write_text("far away\n" * 99)
    with page.expect_response("**/worlds?*") as answer:
        page.set_input_files("#world-file", tmp_path / "my.world")
    assert answer.value.status == 400
    page.wait_for_selector("#notice:has-text('expected a world file')")
    assert np.array_equal(screen(page), before)
    walk(page, "w", 0.2)


def test_branches(opened: Any) -> None:
    page = opened(1280, 800)
    settle(page)
    assert not page.is_visible("#tree") and not page.is_visible("#drop")
    walk(page, "w", 0.3)
    settle(page)
    trunk = screen(page)
    page.click("#branch")
    page.wait_for_selector("[data-branch=B][aria-pressed=true]")
    settle(page)
    assert np.array_equal(screen(page), trunk)
    drag(page, "#look", -1, 0, 0.8)
    settle(page)
    other = screen(page)
    assert psnr(trunk, other) < 22

    page.click("[data-branch=A]")
    page.wait_for_selector("[data-branch=A][aria-pressed=true]")
    settle(page)
    assert np.array_equal(screen(page), trunk)
    page.keyboard.press("n")
    page.wait_for_selector("[data-branch=B][aria-pressed=true]")
    settle(page)
    assert np.array_equal(screen(page), other)
    page.keyboard.press("x")
    page.wait_for_selector("#tree", state="hidden")
    settle(page)
    assert np.array_equal(screen(page), trunk)


def test_a_phone(opened: Any, photograph: Any) -> None:
    page = opened(390, 844, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert fits(page, 390, 844)
    settle(page)
    first = screen(page)
    page.tap("#branch")
    page.wait_for_selector("#tree button:nth-child(2)")
    page.wait_for_selector("#notice", state="hidden")
    assert fits(page, 390, 844)
    touch = page.context.new_cdp_session(page)
    points = []
    for number, (stick, right, down) in enumerate((("#walk", 0.1, -0.8), ("#look", 0.5, 0))):
        box = page.locator(stick).bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        points.append({"x": x, "y": y, "id": number})
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
        points[-1] = {
            "x": x + right * box["width"] / 3, "y": y + down * box["height"] / 3, "id": number
        }  # fmt: skip
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
    time.sleep(0.9)
    photograph(page, "frameboy-phone.png")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)
    assert distance(page) > 0.2 and psnr(first, screen(page)) < 22
    page.tap("#home")
    page.wait_for_function("() => document.getElementById('screen').dataset.distance === '0.000'")
    settle(page)
    assert psnr(first, screen(page)) > 24


@pytest.mark.parametrize(("width", "height"), [(360, 640), (844, 390), (1024, 768), (1366, 650)])
def test_it_fits_other_screens(opened: Any, width: int, height: int) -> None:
    page = opened(width, height)
    assert fits(page, width, height)
    for count in (2, 3, 4):
        page.keyboard.press("b")
        page.wait_for_selector(f"#tree button:nth-child({count})")
        assert fits(page, width, height)
