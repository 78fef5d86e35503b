# SPDX-License-Identifier: Apache-2.0
"""What choosing a context costs and how good it is: the frame cache, timed inside C++.

    python benchmarks/frame_cache.py [--frames 512 1000000] [--world walk] [--json FILE]

The worlds are those of tests/worlds.py. For each: microseconds of plan (caches warm), of insert
while there is room and of insert when every new frame evicts one; and what plans see of what the
exact scan sees, mean and first percentile. A time is the least of --rounds runs of the very same
calls, call by call: what other processes do to one run is gone, what the code does stays.
Needs a build with the test module (RTFM_TESTING).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rtfm_rt import _testing

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import worlds

SCANNED = 3e8  # frames that the exact scans of one row may look at


def least(runs: list[np.ndarray]) -> np.ndarray:
    return np.min(runs, axis=0)


def measure(
    make: Callable[[np.random.Generator, int], np.ndarray], frames: int, o: argparse.Namespace
) -> dict[str, float | int | str]:
    g = np.random.default_rng(1)
    views = make(g, frames)
    coming = views[g.permutation(frames)[: o.calls]]
    queries = worlds.queries(g, views, o.calls)
    inserts, plans, evicts = [], [], []
    for _ in range(o.rounds):
        cache = _testing.FrameCache(frames, o.context)
        inserts.append(cache.time_insert(0, views, worlds.FOCAL))
        cache.time_plan(queries, worlds.FOCAL)
        plans.append(cache.time_plan(queries, worlds.FOCAL))
        some = queries[: int(np.clip(SCANNED / frames, 50, o.calls))]
        seen = np.array(cache.supports(some, worlds.FOCAL))
        if len(plans) == 1:
            exact = np.array(cache.exact_supports(some, worlds.FOCAL, context=o.context))
            share = np.where(exact > 0, seen / np.maximum(exact, 1e-9), 1)
        evicts.append(cache.time_insert(frames, coming, worlds.FOCAL))
    plan, insert, evict = least(plans), least(inserts), least(evicts)
    row = {"world": make.__name__, "frames": frames, "context": o.context}
    row |= {f"plan_p{p}_us": float(np.percentile(plan, p)) for p in (50, 99)}
    row |= {f"insert_p{p}_us": float(np.percentile(insert, p)) for p in (50, 99.9)}
    row |= {"insert_max_us": float(insert.max()), "evict_max_us": float(evict.max())}
    row |= {"evict_p99.9_us": float(np.percentile(evict, 99.9))}
    row |= {"coverage_mean": float(share.mean()), "coverage_p1": float(np.percentile(share, 1))}
    return row


COLUMNS = {
    "plan_p50_us": "9.1f",
    "plan_p99_us": "9.1f",
    "insert_p50_us": "9.2f",
    "insert_p99.9_us": "9.1f",
    "insert_max_us": "9.1f",
    "evict_p99.9_us": "9.1f",
    "evict_max_us": "9.1f",
    "coverage_mean": "9.4f",
    "coverage_p1": "9.3f",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = {make.__name__: make for make in worlds.WORLDS}
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 512, 10_000, 1_000_000])
    parser.add_argument("--world", choices=names, nargs="+", default=list(names))
    parser.add_argument("--context", type=int, default=4)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows there")
    options = parser.parse_args()
    rows = []
    groups = "microseconds             plan: p50      p99  insert: p50   p99.9      max"
    print(groups + "  evict: p99.9   max  coverage: mean  p1")
    for name in options.world:
        for frames in options.frames:
            row = measure(names[name], frames, options)
            rows.append(row)
            cells = " ".join(format(row[key], style) for key, style in COLUMNS.items())
            print(f"{name:>11} {frames:8d} {cells}", flush=True)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
