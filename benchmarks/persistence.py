# SPDX-License-Identifier: Apache-2.0
"""Leave and return: what is still there after a walk away, with three kinds of memory.

    python benchmarks/persistence.py [--rooms 6] [--quick] [--json FILE] [--svg FILE]

From the first picture of a room the camera goes away, comes back exactly, and goes away again.
`return` is the PSNR of the frame back at the start against the picture, `self` against the first
frame generated there, `revisit` that of the second frame at the farthest point against the first
frame there: nobody ever showed that place to the model, so it measures invention remembered.
All memories attend to equally many frames but `previous`, which has one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chart
import heldout
import numpy as np
from heldout import psnr

import rtfm_rt
from rtfm_rt import Pose, paths

_WINDOW = {"sinks": 0, "commit_below": 2.0, "memory_budget": 64 << 20}  # keeps every frame, briefly
LENGTHS = (20, 60, 120, 240, 480)
DETOUR_FRAMES = 60
LENGTH_DETOUR = "turn 90°"
DETOURS: dict[str, Callable[[int, Pose], list[Pose]]] = {
    "turn 30°": lambda n, start: paths.there_and_back(n, 0.0, 30.0, start),
    "turn 90°": lambda n, start: paths.there_and_back(n, 0.0, 90.0, start),
    "turn 180°": lambda n, start: paths.there_and_back(n, 0.0, 180.0, start),
    "orbit 360°": lambda n, start: paths.orbit(n, 360.0, 0.1, start),
    "walk 1 m": lambda n, start: paths.there_and_back(n, 1.0, 0.0, start),
    "walk 2 m": lambda n, start: paths.there_and_back(n, 2.0, 0.0, start),
}
MEMORIES = ("pose-keyed", "recent", "previous")


def session(model: rtfm_rt.Model, memory: str, seed: int) -> rtfm_rt.Session:
    """A fresh session of one of MEMORIES; `recent` is as large as the model's own context."""
    context = model.manifest["retrieval"]["context"]
    options: dict[str, Any] = {
        "pose-keyed": {},
        "recent": {**_WINDOW, "context": context, "recent": context},
        "previous": {**_WINDOW, "context": 1, "recent": 1},
    }[memory]
    return rtfm_rt.Session(model, threads=1, seed=seed, **options)


def leave_and_return(
    walker: rtfm_rt.Session, picture: np.ndarray, poses: list[Pose]
) -> dict[str, float]:
    """Observes the picture at the path's start, walks the path and its first half once more."""
    half = (len(poses) - 1) // 2
    walker.observe(picture, poses[0])
    frames = [walker.step(pose) for pose in [*poses, *poses[1 : half + 1]]]
    first, back = frames[0], frames[len(poses) - 1]
    return {
        "return": psnr(back, picture),
        "self": psnr(back, first),
        "revisit": psnr(frames[-1], frames[half]),
        "start": psnr(first, picture),
        "support": float(np.mean([frame.support for frame in frames[: len(poses)]])),
        "kept": sum(frame.committed for frame in frames),
    }


def against_truth(
    walker: rtfm_rt.Session, pictures: np.ndarray, poses: np.ndarray
) -> dict[str, float]:
    """A rendered walk: PSNR to the truth on the way out, on the way back, and of the last frame."""
    walker.observe(pictures[0], poses[0])
    frames = [walker.step(pose) for pose in poses]
    scores = [psnr(f, truth) for f, truth in zip(frames, pictures, strict=True)]
    half = len(scores) // 2
    return {
        "out": float(np.mean(scores[1:half])),
        "back": float(np.mean(scores[half:-1])),
        "last": scores[-1],
        "kept": sum(frame.committed for frame in frames),
    }


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of every figure over the rooms, with the standard errors of `return` and `revisit`."""
    result = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}
    for key in [key for key in ("return", "revisit") if key in rows[0]]:
        values = [row[key] for row in rows]
        error = np.std(values, ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else 0.0
        result[f"{key}_error"] = round(float(error), 3)
    return result


def measure_detour(
    model: rtfm_rt.Model, memory: str, detour: str, frames: int, rooms: int
) -> dict[str, float]:
    """The mean over the rooms of `leave_and_return`; room r is walked with seed r."""
    data, rows = heldout.load_rooms(), []
    for room in range(rooms):
        poses = DETOURS[detour](frames, Pose(data.poses[room, 0]))
        rows.append(leave_and_return(session(model, memory, room), data.images[room, 0], poses))
    return mean(rows)


def measure_walks(
    model: rtfm_rt.Model, memory: str, walks: int, stride: int = 1
) -> dict[str, float]:
    data, rows = heldout.load_rooms(), []
    for i in range(walks):
        keep = [*range(0, 30, stride), *range(59 - (29 // stride) * stride, 60, stride)]
        pictures, poses = data.walk_images[i, keep], data.walk_poses[i, keep]
        rows.append(against_truth(session(model, memory, i), pictures, poses))
    return mean(rows)


def show(title: str, results: dict[str, dict[str, dict[str, float]]], keys: list[str]) -> None:
    """One line per path, per memory the figures named by `keys`."""
    print(f"\n{title}\n{'':12}" + "".join(f"{memory:^{8 * len(keys)}}" for memory in MEMORIES))
    print(f"{'':12}" + "".join(f"{key:>8}" for key in keys) * len(MEMORIES))
    for name, row in results.items():
        cells = [row[memory][key] for memory in MEMORIES for key in keys]
        print(f"{name:12}" + "".join(f"{cell:8.1f}" for cell in cells))


def draw(by_length: dict[str, Any], by_detour: dict[str, Any]) -> str:
    """Return against length; beside it the second visit of the farthest point, per detour."""
    lengths = [float(name) for name in by_length]
    title = f"Back at the start ({LENGTH_DETOUR}, there and back)"
    left = chart.Panel(title, "frames walked", "PSNR to the picture, dB", lengths, log=True)
    places = [float(i) for i in range(len(by_detour))]
    title = "At the farthest point for the second time"
    right = chart.Panel(title, "detour", "PSNR to the first time, dB", places, joined=False)
    right.names = list(by_detour)
    for memory in MEMORIES:
        back = [row[memory] for row in by_length.values()]
        left.curves[memory] = [
            (x, r["return"], r["return_error"]) for x, r in zip(lengths, back, strict=True)
        ]
        far = [row[memory] for row in by_detour.values()]
        right.curves[memory] = [
            (x, r["revisit"], r["revisit_error"]) for x, r in zip(places, far, strict=True)
        ]
    return chart.svg([left, right], "Leave and return: PSNR with three kinds of memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rooms", help="bundled name or model file")
    parser.add_argument("--rooms", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="two rooms, short paths: a smoke test")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    model = rtfm_rt.Model(args.model)
    rooms = 2 if args.quick else args.rooms
    lengths = (12,) if args.quick else LENGTHS
    detours = ("turn 90°", "walk 1 m") if args.quick else tuple(DETOURS)
    frames = 12 if args.quick else DETOUR_FRAMES
    walks, stride = (1, 5) if args.quick else (6, 1)

    def every(detour: str, frames: int) -> dict[str, dict[str, float]]:
        return {m: measure_detour(model, m, detour, frames, rooms) for m in MEMORIES}

    truth = {m: measure_walks(model, m, walks, stride) for m in MEMORIES}
    show("rendered walks, against the truth", {f"{walks} walks": truth}, ["out", "back", "last"])
    by_detour = {detour: every(detour, frames) for detour in detours}
    show(f"detours of {frames} frames", by_detour, ["return", "self", "revisit"])
    by_length = {}
    for n in lengths:  # one of them has been walked already
        by_length[str(n)] = by_detour[LENGTH_DETOUR] if n == frames else every(LENGTH_DETOUR, n)
    show(f"lengths in frames, {LENGTH_DETOUR}", by_length, ["return", "self", "revisit"])
    if args.json:
        about = heldout.about(session(model, "pose-keyed", 0))
        heldout.write_json(
            args.json, about, rooms=rooms, lengths=by_length, detours=by_detour, truth=truth
        )
    if args.svg:
        args.svg.write_text(draw(by_length, by_detour))


if __name__ == "__main__":
    main()
