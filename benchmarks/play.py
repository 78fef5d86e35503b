# SPDX-License-Identifier: Apache-2.0
"""What a walker in FRAMEBOY gets: frames a second, and how soon a key shows on the screen.

    python benchmarks/play.py [--model rooms] [--seconds 20] [--json FILE]

Needs the extra `test` and Chromium, which runs here without a window, on the same CPUs as the
server: the page draws, the model computes, and both take turns as they do on a laptop. The server
makes 30 frames a second at most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from heldout import about
from playwright.sync_api import sync_playwright

import rtfm_rt

PRESSES = 20
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# of each frame as it is drawn: when, in ms, and the latency of its receipt; when keys went down
WATCH = """() => {
  window.drawn = [], window.pressed = [];
  const latency = document.getElementById("latency");
  new MutationObserver(() => drawn.push([performance.now(), Number(latency.textContent)]))
    .observe(document.getElementById("screen"), {attributeFilter: ["data-frame"]});
  addEventListener("keydown", (event) => event.repeat || pressed.push(performance.now()), true);
}"""


@contextlib.contextmanager
def serving(model: str) -> Iterator[str]:
    """The address of a server."""
    command = [sys.executable, "-m", "rtfm_rt", "play", "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        [*command, "--model", model], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    try:
        found = None
        while found is None:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the server ended before it said where it is")
            found = re.search(r"http://\S+", line)
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=20)


def walk(page: Any, seconds: float) -> dict[str, Any]:
    """Turning and walking all the time."""
    page.evaluate(WATCH)
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
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        parser.error("no chromium here; apt-get install chromium")
    with serving(args.model) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.goto(address)
        page.wait_for_selector("#screen[data-frame]")
        result = {"walk": walk(page, args.seconds), "keys": presses(page, args.presses)}
        result["about"] = about(rtfm_rt.Session(args.model)) | {"chromium": browser.version}
        browser.close()
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
