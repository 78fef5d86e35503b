# SPDX-License-Identifier: Apache-2.0
"""World files of Oasis-500M at its published size, random weights: how large, how long they take.

    python -m benchmarks.action_worlds [--json FILE]

From the root of the repository. The window is filled with observed pictures. Then the world is
saved, saved again after one more frame, and loaded; `exact` says whether the next frame of the
loaded session is that of the saved one. The first save and the load read the model file, for its
hash: `hash_s`. Both ways of sliding: pages are in the file, or the
latents that they are made again from. Times are of one run, with what the system's cache holds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt
from benchmarks.families import oasis
from rtfm_rt import world as worlds
from rtfm_rt.bench import machine

CASE = "window of 32, 4 steps"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call()
    return round(time.perf_counter() - began, 2), result


def measure(model: rtfm_rt.Model, folder: Path) -> dict[str, Any]:
    window, steps = oasis.CASES[CASE]
    images, actions = oasis.inputs(window)
    session = rtfm_rt.Session(model, steps=steps, seed=oasis.SEED)
    for image, action in zip(images, actions, strict=False):
        session.observe(image, action=action)
    path = folder / f"{model.manifest['slide']}.world"
    figures: dict[str, Any] = {"hash_s": timed(lambda: worlds.model_hash(model.path))[0]}
    figures["save_s"] = timed(lambda: session.save(path))[0]
    figures["mb"] = round(path.stat().st_size / 1e6, 1)
    session.observe(images[0])
    figures["save_one_more_s"] = timed(lambda: session.save(path))[0]
    figures["mb_then"] = round(path.stat().st_size / 1e6, 1)
    figures["load_s"], loaded = timed(lambda: rtfm_rt.Session.load(path, model))
    frames = [each.step(action=actions[-1]) for each in (session, loaded)]
    return {**figures, "exact": bool(np.array_equal(*frames))}


def recomputing(folder: Path) -> Path:
    """The same model with its other way of sliding."""
    path = folder / "recompute.safetensors"
    with (folder / "model.safetensors").open("rb") as file, path.open("wb") as out:
        header = file.read(int.from_bytes(file.read(8), "little"))
        header = header.replace(rb"\"slide\":\"keep\"", rb"\"slide\":\"recompute\"")
        header += b" " * (-len(header) % 8)
        out.write(len(header).to_bytes(8, "little") + header)
        shutil.copyfileobj(file, out)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        oasis.write(folder, CASE)
        for path in (folder / "model.safetensors", recomputing(folder)):
            model = rtfm_rt.Model(path, "cpu", "float32")
            results[model.manifest["slide"]] = measure(model, folder)
            print(model.manifest["slide"], results[model.manifest["slide"]], flush=True)
    if args.json:
        about = {**machine(), "date": time.strftime("%Y-%m-%d"), "rtfm_rt": rtfm_rt.__version__}
        args.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
