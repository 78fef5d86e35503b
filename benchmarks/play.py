# SPDX-License-Identifier: Apache-2.0
"""What a walker in FRAMEBOY gets: frames a second, and how soon a key shows on the screen.

    python benchmarks/play.py [--model rooms] [--seconds 20] [--json FILE]

Needs the extra `test` and Chromium, which runs here without a window, on the same CPUs as the
server: the page draws, the model computes, and both take turns as they do on a laptop. The server
makes 30 frames a second at most.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from heldout import REPOSITORY, about, write_json
from playwright.sync_api import sync_playwright

import rtfm_rt

sys.path.append(str(REPOSITORY / "tests"))
from chromium import CHROMIUM, FLAGS, serve

PRESSES = 20
# of each frame as it is drawn: when, in ms, and the latency of its receipt; when keys went down
WATCH = """() => {
  window.drawn = [], window.pressed = [];
  const latency = document.getElementById("latency");
  new MutationObserver(() => drawn.push([performance.now(), Number(latency.textContent)]))
    .observe(document.getElementById("screen"), {attributeFilter: ["data-frame"]});
  addEventListener("keydown", (event) => event.repeat || pressed.push(performance.now()), true);
}"""


def walk(page: Any, seconds: float) -> dict[str, Any]:
    """Turning and walking all the time."""
    page.keyboard.down("KeyW")
    page.keyboard.down("ArrowRight")
    page.wait_for_timeout(2000)  # not counted: the map opens, the memory fills
    page.evaluate("() => { drawn.length = 0; }")
    page.wait_for_timeout(1000 * seconds)
    drawn = np.array(page.evaluate("() => drawn"))
    page.keyboard.up("ArrowRight")
    page.keyboard.up("KeyW")
    if len(drawn) < 2:
        raise RuntimeError("expected frames on the screen, got none; is there room to walk?")
    between = np.diff(drawn[:, 0])
    return {
        "frames": len(drawn),
        "frames_per_second": round(1000 * len(between) / between.sum(), 1),
        "between_ms": quantiles(between),
        "latency_ms": quantiles(drawn[:, 1]),
    }


def presses(page: Any, count: int) -> dict[str, Any]:
    """From a key that goes down while nothing moves to the first frame that it changes."""
    waits = []
    for _ in range(count):
        page.wait_for_function("() => document.getElementById('screen').dataset.moving === 'false'")
        page.evaluate("() => { drawn.length = pressed.length = 0; }")
        page.keyboard.down("ArrowRight")
        page.wait_for_function("() => drawn.length > 0")
        page.keyboard.up("ArrowRight")
        waits.append(page.evaluate("() => drawn[0][0] - pressed[0]"))
    return {"presses": count, "key_to_screen_ms": quantiles(np.array(waits))}


def quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 1) for p in (50, 95, 99)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rooms")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--presses", type=int, default=PRESSES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not CHROMIUM:
        parser.error("no chromium here; apt-get install chromium")
    with serve("--model", args.model) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        page.wait_for_selector("#screen[data-frame]")
        page.evaluate(WATCH)
        result = {"walk": walk(page, args.seconds), "keys": presses(page, args.presses)}
        machine = about(rtfm_rt.Session(args.model)) | {"chromium": browser.version}
        browser.close()
    print(json.dumps(result, indent=1))
    if args.json:
        write_json(args.json, machine, **result)


if __name__ == "__main__":
    main()
