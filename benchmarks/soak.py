# SPDX-License-Identifier: Apache-2.0
"""An hour of steps in a minute: does memory grow, does a step get slower?

    python benchmarks/soak.py [--steps 100000] [--json benchmarks/results/FILE.json]

A small model with random weights walks a bounded world at random, remembering what is new to
it. The time of a step is the median of 1000; resident memory is read every 1000 steps. Needs the
`test` extra.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from random_model import write_random_model

import rtfm_rt
from rtfm_rt.bench import machine
from rtfm_rt.reference import Config

WINDOW = 1000


def resident_mib() -> float:
    """Memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def wander(rng: np.random.Generator, size: float = 40.0):
    """Endless poses of a random walk in a square of `size` metres."""
    x, z, yaw, turn = 0.0, 0.0, 0.0, 0.0
    while True:
        turn = 0.9 * turn + rng.normal() * 0.01
        yaw += turn
        x += 0.05 * np.sin(yaw)
        z += 0.05 * np.cos(yaw)
        if max(abs(x), abs(z)) > size / 2:
            yaw += np.pi
        x, z = np.clip((x, z), -size / 2, size / 2)
        pose = np.eye(4)
        pose[0, 0] = pose[2, 2] = np.cos(yaw)
        pose[0, 2], pose[2, 0] = np.sin(yaw), -np.sin(yaw)
        pose[0, 3], pose[2, 3] = x, z
        yield pose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        write_random_model(path, Config(32, 32, 8, 64, 2, 2, 128))
        session = rtfm_rt.Session(str(path), threads=1, memory_budget=64 << 20)
    rng = np.random.default_rng(0)
    poses = wander(rng)
    session.observe(rng.integers(0, 256, (32, 32, 3), np.uint8), next(poses))

    rows = []
    for start in range(0, args.steps, WINDOW):
        seconds = np.empty(WINDOW)
        for i in range(WINDOW):
            pose = next(poses)
            began = time.perf_counter()
            session.step(pose)
            seconds[i] = time.perf_counter() - began
        rows.append(
            {
                "step": start + WINDOW,
                "p50_us": float(np.median(seconds) * 1e6),
                "p99_us": float(np.percentile(seconds, 99) * 1e6),
                "rss_mib": resident_mib(),
                "remembered": len(session.memory),
                "resident": session.memory.resident,
            }
        )
        if start % (10 * WINDOW) == 0:
            print("  ".join(f"{key} {value:.6g}" for key, value in rows[-1].items()), flush=True)

    half = rows[len(rows) // 2 :]
    early = np.median([row["p50_us"] for row in rows[:3]])
    late = np.median([row["p50_us"] for row in rows[-3:]])
    figures = {
        "step_time_end_over_start": round(float(late / early), 3),
        "rss_growth_of_the_second_half_mib": round(half[-1]["rss_mib"] - half[0]["rss_mib"], 2),
        "remembered": rows[-1]["remembered"],
        "evicted": session.memory.evicted,
    }
    print(figures)
    if args.json:
        about = {
            **machine(),
            "date": time.strftime("%Y-%m-%d"),
            "rtfm_rt": rtfm_rt.__version__,
            "command": f"python benchmarks/soak.py --steps {args.steps}",
        }
        args.json.write_text(json.dumps({"about": about, **figures, "windows": rows}, indent=1))


if __name__ == "__main__":
    main()
