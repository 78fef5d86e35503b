# SPDX-License-Identifier: Apache-2.0
"""Drift: frames against the rendered truth, lap after lap, with three kinds of memory.

    python benchmarks/drift.py [--rooms 8] [--laps 5] [--json FILE] [--svg FILE]

Needs the extra `test` and g++: the rooms are rendered here, and training never drew them. From the
first picture of a room the camera walks a loop
of 60 frames again and again. What a model makes of places that it never saw is its invention, and
scores as such; whether laps get worse is drift.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import chart
import heldout
import numpy as np
import persistence

import rtfm_rt

sys.path.append(str(heldout.REPOSITORY))
from tools.rooms import scenes

LAP = 60  # frames
AHEAD, ASIDE, TURN = 0.8, 0.25, 0.6  # metres, metres, radians: the extent of a lap


def lap(seed: int) -> np.ndarray:
    """float32 (LAP, 12): a closed loop through free space, from a place where it begins at rest."""
    rng = np.random.default_rng(int(seed))
    angle = np.linspace(0, 2 * np.pi, LAP, endpoint=False)
    ahead, aside, turn = (
        AHEAD * (1 - np.cos(angle)) / 2,
        ASIDE * np.sin(angle),
        TURN * np.sin(angle),
    )
    for _ in range(10_000):
        x, z, yaw = *rng.uniform(-3, 3, 2), rng.uniform(-np.pi, np.pi)
        xs = x + ahead * np.sin(yaw) + aside * np.cos(yaw)
        zs = z + ahead * np.cos(yaw) - aside * np.sin(yaw)
        if all(scenes.is_free(seed, *place) for place in zip(xs, zs, strict=True)):
            return np.stack([scenes.stand(*p) for p in zip(xs, zs, yaw + turn, strict=True)])
    raise ValueError(f"seed {seed}: expected room for a lap, found none")


def walk(model: rtfm_rt.Model, memory: str, seed: int, laps: int, stride: int) -> list[float]:
    """The mean PSNR of each lap, of which every `stride`-th frame is made."""
    poses = lap(seed)[::stride]
    height = model.manifest["image"]["height"]
    truth = scenes.render(np.array([seed]), poses[None], height)[0]
    where = scenes.matrices(poses)
    walker = persistence.session(model, memory, int(seed) & 0xFFFF)
    walker.observe(truth[0], where[0])
    scores = [
        [heldout.psnr(walker.step(p), t) for p, t in zip(where, truth, strict=True)]
        for _ in range(laps)
    ]
    return [float(np.mean(lap_scores)) for lap_scores in scores]


def measure(model: rtfm_rt.Model, rooms: int, laps: int, stride: int) -> dict[str, Any]:
    """For each memory the mean of every lap over the rooms, and its standard error."""
    results = {}
    for memory in persistence.MEMORIES:
        seeds = scenes.held_out_seeds(rooms)
        scores = np.array([walk(model, memory, seed, laps, stride) for seed in seeds])
        change = scores[:, -1] - scores[:, 0]
        results[memory] = {
            "laps": np.round(scores.mean(0), 3).tolist(),
            "errors": np.round(scores.std(0, ddof=1) / rooms**0.5, 3).tolist(),
            "change": round(float(change.mean()), 3),
            "change_error": round(float(change.std(ddof=1) / rooms**0.5), 3),
        }
    return results


def draw(results: dict[str, Any], laps: int) -> str:
    panel = chart.Panel(
        f"Lap after lap of {LAP} frames", "lap", "PSNR to the truth, dB", [*range(1, laps + 1)]
    )
    for memory, row in results.items():
        panel.curves[memory] = [
            (float(i + 1), mean, error)
            for i, (mean, error) in enumerate(zip(row["laps"], row["errors"], strict=True))
        ]
    return chart.svg([panel], "Drift: PSNR of each lap with three kinds of memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rooms", help="bundled name or model file")
    parser.add_argument("--rooms", type=int, default=8)
    parser.add_argument("--laps", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="two rooms, two short laps: a smoke test"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    model = rtfm_rt.Model(args.model)
    rooms, laps, stride = (2, 2, 3) if args.quick else (args.rooms, args.laps, 1)
    results = measure(model, rooms, laps, stride)
    print(f"PSNR to the truth in dB, {rooms} rooms, {laps} laps of {LAP // stride} frames")
    for memory, row in results.items():
        cells = "".join(f"{score:8.2f}" for score in row["laps"])
        print(f"{memory:12}{cells}   change {row['change']:+.2f} ± {row['change_error']:.2f}")
    if args.json:
        about = heldout.about(persistence.session(model, "pose-keyed", 0))
        heldout.write_json(args.json, about, rooms=rooms, lap_frames=LAP // stride, drift=results)
    if args.svg:
        args.svg.write_text(draw(results, laps))


if __name__ == "__main__":
    main()
