# SPDX-License-Identifier: Apache-2.0
"""How even steps are, and how even this machine is: each step beside equal work that cannot vary.

    python benchmarks/jitter.py [--rounds 1000] [--threads 2] [--json FILE]

A step of the same frame takes turns with a loop of arithmetic in registers, as long and on as many
threads, which touches no memory, takes no lock and allocates nothing. What its times spread is the
machine's own: other programs, a hypervisor, the clock of the cores. Needs the extra `test` and a
C++ compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import timing
from heldout import about, write_json
from random_model import SHAPES, poses, remembering, shapes

import rtfm_rt

WARM_UP = 30


@contextmanager
def equal_work(threads: int) -> Iterator[Any]:
    """`run(rounds)` of jitter.cc on that many threads: seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/jitter.so"
        options = ["-O3", "-march=native", "-std=c++20", "-pthread", "-shared", "-fPIC"]
        source = str(Path(__file__).with_name("jitter.cc"))
        subprocess.run([os.environ.get("CXX", "c++"), *options, source, "-o", path], check=True)
        library = ctypes.CDLL(path)
    library.run.argtypes, library.run.restype = [ctypes.c_int64], ctypes.c_double
    library.start(threads)
    try:
        yield library.run
    finally:
        library.stop()


def measure(path: str, pages: int, threads: int, rounds: int, run: Any) -> dict[str, Any]:
    session = remembering(path, pages, threads=threads)
    ahead = poses(pages + 1)[-1]

    def step() -> float:
        start = time.perf_counter()
        session.step(ahead)
        return time.perf_counter() - start

    seconds: dict[str, list[float]] = {"step": [], "equal work": []}
    work = 100_000  # rounds of the loop, until it takes as long as a step beside it
    for _ in range(3):
        pairs = [(step(), run(work)) for _ in range(WARM_UP)]
        length, took = np.median(pairs, axis=0)
        work = int(work * length / took)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            seconds["step"].append(step())
            seconds["equal work"].append(run(work))
    finally:
        gc.enable()
    result: dict[str, Any] = {"device": session.device}
    for name, values in seconds.items():
        row = timing.summary(np.array(values))
        result[name] = {**row, "p99/p50": round(row["p99_ms"] / row["p50_ms"], 3)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", choices=list(SHAPES), help="one of the models, for all of them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    with equal_work(args.threads) as run:
        for name, path, pages in shapes():
            if args.shape not in (None, name):
                continue
            results[name] = measure(path, pages, args.threads, args.rounds, run)
            print(f"\n{name}, {args.threads} threads, {results[name]['device']}")
            for kind in ("step", "equal work"):
                row = results[name][kind]
                print(
                    f"  {kind:12} p50 {row['p50_ms']:8.2f}  p99 {row['p99_ms']:8.2f}"
                    f"  max {row['max_ms']:8.2f} ms   p99/p50 {row['p99/p50']:.3f}"
                )
    if args.json:
        session = rtfm_rt.Session("rooms", threads=args.threads)
        write_json(args.json, about(session) | {"threads": args.threads}, results=results)


if __name__ == "__main__":
    main()
