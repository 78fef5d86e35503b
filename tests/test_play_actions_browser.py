# SPDX-License-Identifier: Apache-2.0
"""FRAMEBOY in a real browser with a model that goes by actions, of two images a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import action_models
from chromium import CHROMIUM, serve
from test_play_browser import (
    DRAWN,
    browser,  # noqa: F401  (a fixture)
    fits,
    load,
    opened,  # noqa: F401  (a fixture)
    save,
    screen,
    settle,
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here; apt-get install chromium runs this test"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server with such a model is."""
    folder = tmp_path_factory.mktemp("browser")
    model = action_models.write(folder / "causal.safetensors", "causal")
    with serve("--model", model, "--worlds", str(folder / "worlds")) as found:
        yield found


def number(page: Any) -> int:
    return int(page.get_attribute(DRAWN, "data-frame"))


def hold(page: Any, *keys: str, frames: int = 3) -> None:
    """Until so many frames more are on the screen, then until nothing moves."""
    until = number(page) + frames
    for key in keys:
        page.keyboard.down(key)
    page.wait_for_function(f"() => document.getElementById('screen').dataset.frame >= {until}")
    for key in keys:
        page.keyboard.up(key)
    settle(page)


def recorded(page: Any, key: str) -> dict[int, list[str]]:
    """The images of each step while a key is held; the next step is 1. Not all need be drawn."""
    first = number(page)
    page.evaluate(
        "() => { window.drawn = {};"
        "const shown = document.getElementById('screen'), pen = shown.getContext('2d');"
        "const put = CanvasRenderingContext2D.prototype.putImageData;"
        "pen.putImageData = (image, ...rest) => {"
        "(window.drawn[shown.dataset.frame] ??= []).push(image.data.join());"
        "put.call(pen, image, ...rest) } }"
    )
    hold(page, key)
    drawn = page.evaluate("() => window.drawn")
    return {int(step) - first: images for step, images in drawn.items()}


def test_walk_save_reload_and_load(opened: Any) -> None:  # noqa: F811
    page = opened(1280, 800)
    assert settle(page) == 1
    picture = screen(page)
    hold(page, "w")
    assert not np.array_equal(screen(page), picture)
    assert float(page.get_attribute(DRAWN, "data-distance")) > 0.1
    hold(page, "w", "ArrowRight", "Space")
    kept, last = screen(page), number(page)
    name = save(page)
    assert number(page) == last and np.array_equal(screen(page), kept)

    ahead = recorded(page, "f")

    page.reload()
    page.wait_for_selector(DRAWN)
    settle(page)
    assert np.array_equal(screen(page), picture)  # of the shelf: a new walk
    load(page, name)
    assert np.array_equal(screen(page), kept)  # the same picture, to the bit
    assert int(page.inner_text("#remembered")) == last
    again = recorded(page, "f")  # and the next ones
    both = ahead.keys() & again.keys()
    assert 1 in both and all(ahead[step] == again[step] for step in both)


def test_every_image_of_a_step_is_shown(opened: Any) -> None:  # noqa: F811
    page = opened(1280, 800)
    settle(page)
    shown = recorded(page, "z")
    assert all(len(images) == len(set(images)) == 2 for images in shown.values())


def test_what_makes_no_sense_is_not_there(opened: Any) -> None:  # noqa: F811
    page = opened(1280, 800)
    settle(page)
    assert not page.is_visible("#remember") and not page.is_visible("#home")
    for key, reason in (("h", "knows no poses"), ("m", "sees its last frames only, 4")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#notice:has-text('{reason}')")
    assert settle(page) == 1


def test_buttons_on_the_page(opened: Any) -> None:  # noqa: F811
    page = opened(390, 844, has_touch=True, is_mobile=True)
    settle(page)
    first = number(page)
    page.tap(".act:text('wait')")
    page.wait_for_function(f"() => document.getElementById('screen').dataset.frame > {first}")
    page.focus(".act:text('space')")
    page.keyboard.down("Enter")
    page.wait_for_selector(".act.down:text('space')")
    page.keyboard.up("Enter")
    page.wait_for_selector(".act.down", state="detached")
    settle(page)
    page.tap("#branch")
    page.wait_for_selector("[data-branch=B][aria-pressed=true]")
    assert fits(page, 390, 844)


@pytest.mark.parametrize(
    ("width", "height"), [(360, 640), (844, 390), (1024, 768), (1280, 800), (1366, 650)]
)
def test_it_fits_other_screens(opened: Any, width: int, height: int) -> None:  # noqa: F811
    page = opened(width, height)
    settle(page)
    assert fits(page, width, height)
