# SPDX-License-Identifier: Apache-2.0
"""What choosing a context costs: plan and insert of the frame cache, timed inside C++.

    python benchmarks/frame_cache.py [--context 4] [--calls 2000]

`walk` is a path through new places, `room` a crowd of views within 20 metres, `spot` copies of one
view: there no frame can be ruled out early. Needs a build with the test module (RTFM_TESTING).
"""

import argparse

import numpy as np

from rtfm_rt import _testing

FOCAL = (0.65, 0.65)


def poses(position: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Upright cameras at position [n, 3], turned by yaw [n] radians: [n, 4, 4] camera-to-world."""
    c, s = np.cos(yaw), np.sin(yaw)
    matrices = np.tile(np.eye(4), (len(yaw), 1, 1))
    matrices[:, 0, 0], matrices[:, 0, 2] = c, s
    matrices[:, 2, 0], matrices[:, 2, 2] = -s, c
    matrices[:, :3, 3] = position
    return matrices


def walk(g: np.random.Generator, n: int) -> np.ndarray:
    yaw = np.cumsum(g.normal(0, 0.1, n))
    steps = np.stack([np.sin(yaw), np.zeros(n), np.cos(yaw)], axis=1)
    return poses(np.cumsum(0.3 * steps, axis=0), yaw)


def room(g: np.random.Generator, n: int) -> np.ndarray:
    return poses(g.uniform(0, 20, (n, 3)) * [1, 0.1, 1], g.uniform(-np.pi, np.pi, n))


def spot(g: np.random.Generator, n: int) -> np.ndarray:
    return poses(g.normal(0, 0.1, (n, 3)), g.normal(0, 0.1, n))


def percentiles(times: list[float]) -> str:
    return "{:9.1f} {:9.1f}".format(*np.percentile(times, [50, 99]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=4)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    print("microseconds            plan p50       p99  insert, full: p50       p99")
    for world in (walk, room, spot):
        for frames in (64, 512, 4096):
            g = np.random.default_rng(0)
            views = world(g, frames + options.calls)
            held, coming = views[:frames], views[frames:]
            cache = _testing.FrameCache(frames, options.context)
            cache.time_insert(0, held, FOCAL)
            queries = held[g.integers(frames, size=options.calls)].copy()
            queries[:, :3, 3] += g.normal(0, 0.3, (options.calls, 3))
            cache.time_plan(queries[:100], FOCAL)
            plan = cache.time_plan(queries, FOCAL)
            insert = cache.time_insert(frames, coming, FOCAL)
            print(f"{world.__name__:>6} {frames:6d}    {percentiles(plan)}", end="           ")
            print(percentiles(insert))


if __name__ == "__main__":
    main()
