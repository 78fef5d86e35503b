# SPDX-License-Identifier: Apache-2.0
"""Does a world of a million frames slow a step, or cost memory to walk in, or to branch?

    python benchmarks/large_world.py [--frames 1000000] [--json benchmarks/results/FILE.json]

A small model with random weights observes a path of new places. At several sizes the session walks
a stretch of it again, from a place far back, and is forked: medians and 99th percentiles, and what
walking adds to resident memory. Needs the `test` extra.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from random_model import write_random_model
from soak import resident_mib

import rtfm_rt
from rtfm_rt.bench import machine
from rtfm_rt.reference import Config

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import worlds

SIDE = 16  # pixels
STEPS_A_FRAME = 6  # of 5 cm, between remembered frames 30 cm apart


def microseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    del result
    return seconds * 1e6


def between(poses: np.ndarray, steps: int) -> np.ndarray:
    """A walk along the cameras, `steps` from one to the next; turns stay those of the first."""
    walk = np.repeat(poses[:-1], steps, axis=0)
    share = np.tile(np.arange(steps) / steps, len(poses) - 1)[:, None]
    walk[:, :3, 3] += share * np.repeat(np.diff(poses[:, :3, 3], axis=0), steps, axis=0)
    return walk


def percentiles(name: str, times: list[float]) -> dict[str, float]:
    return {f"{name}_p{p}_us": round(float(np.percentile(times, p)), 1) for p in (50, 99)}


def measure(session: rtfm_rt.Session, poses: np.ndarray, steps: int) -> dict[str, float]:
    """One row: a walk where the world began, forks, and the memory that the walk took."""
    stretch = poses[: steps // STEPS_A_FRAME + 2]
    walk = between(stretch, STEPS_A_FRAME)[:steps]
    for pose in walk[: steps // 4]:
        session.step(pose)
    before = resident_mib()
    row = {"frames": len(session.memory), "pages": session.memory.resident}
    row |= percentiles("step", [microseconds(partial(session.step, pose)) for pose in walk])
    row |= {"walk_mib": round(resident_mib() - before, 2), "rss_mib": round(resident_mib())}
    row |= percentiles("fork", [microseconds(session.fork) for _ in range(200)])
    firsts = []
    for pose in walk[:50]:
        branch = session.fork()
        firsts.append(microseconds(partial(branch.step, pose)))
    return row | percentiles("branch_step", firsts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=2000, help="of each walk")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sizes = [n for n in (100, 1_000, 10_000, 100_000) if n < args.frames] + [args.frames]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        write_random_model(path, Config(SIDE, SIDE, 8, 64, 8, 2, 256))
        budget = args.frames * SIDE * SIDE * 3 * 4 + (64 << 20)
        session = rtfm_rt.Session(str(path), threads=1, memory_budget=budget, commit_below=0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
    poses = worlds.path(rng, args.frames)

    rows: list[dict[str, float]] = []
    seen = 0
    for size in sizes:
        times = []
        for i in range(seen, size):
            times.append(microseconds(partial(session.observe, images[i % 64], poses[i])))
        seen = size
        rows.append(measure(session, poses, args.steps) | percentiles("observe", times))
        print("  ".join(f"{key} {value:.6g}" for key, value in rows[-1].items()), flush=True)
    figures = {
        "step_p50_end_over_start": round(rows[-1]["step_p50_us"] / rows[0]["step_p50_us"], 3)
    }
    print(figures)
    if args.json:
        about = {
            **machine(),
            "date": time.strftime("%Y-%m-%d"),
            "rtfm_rt": rtfm_rt.__version__,
            "command": "python " + " ".join(sys.argv),
        }
        args.json.write_text(json.dumps({"about": about, **figures, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
