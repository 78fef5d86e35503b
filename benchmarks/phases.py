# SPDX-License-Identifier: Apache-2.0
"""Where the time of a write pass goes: each op against what the machine can do at most.

    python -m benchmarks.phases [--precision bfloat16] [--json FILE]

From the root of the repository. Needs the extra `test`, a build with
`--config-settings=cmake.define.RTFM_TESTING=ON`, and a C++ compiler: `benchmarks/peak.cc` measures
the machine in the same run. The floor of an op is the larger of two times: its arithmetic at the
measured peak, and its bytes, each read or written once, at the rate of the memory where they lie:
weights and context of the last level cache, activations of L2.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rtfm_rt
from benchmarks.peers import contestants, problem
from rtfm_rt import _testing
from rtfm_rt.bench import machine
from rtfm_rt.reference import Config

Cost = tuple[float, float, float]  # GFLOP, MB of weights and context, MB of activations


def peak(threads: int) -> dict[str, float]:
    """GFLOP/s by precision and GB/s of L2, of the last level cache and of memory; best of many."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/peak"
        compiler = os.environ.get("CXX", "c++")
        options = ["-O3", "-march=native", "-std=c++20", "-pthread"]
        source = str(Path(__file__).with_name("peak.cc"))
        subprocess.run([compiler, *options, source, "-o", program], check=True)
        done = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def costs(config: Config, pages: int, precision: str) -> dict[str, Cost]:
    """Of one call of each op of a block; weights lie in int8 or bfloat16."""
    width, mlp = config.width, config.mlp
    n = config.height * config.image_width // config.patch**2
    operand = 2 if precision == "bfloat16" else 4  # bytes; products are float32
    weight = 1 if precision == "int8" else 2

    def matmul(inner: int, outer: int, put: int) -> Cost:
        far, near = weight * inner * outer, n * (operand * inner + put * outer)
        return 2e-9 * n * inner * outer, 1e-6 * far, 1e-6 * near

    keys = (pages + 1) * n
    move, both = 1e-6 * n * width, 2 * operand  # of K and V, of q and o
    return {
        "norm and modulate": (7e-9 * n * width, 0.0, move * (4 + operand)),
        f"matmul {width} to {3 * width}": matmul(width, 3 * width, 4),
        "split, QK-norm, RoPE": (15e-9 * n * width, move * both, move * (12 + operand)),
        "attention": (4e-9 * n * keys * width, 1e-6 * keys * width * both, move * both),
        f"matmul {width} to {width}": matmul(width, width, 8),
        f"matmul {width} to {mlp}": matmul(width, mlp, operand),
        f"matmul {mlp} to {width}": matmul(mlp, width, 8),
    }


def times(config: Config, pages: int, args: argparse.Namespace) -> dict[str, tuple[int, float]]:
    """Calls of each op in one write pass, and the fewest seconds that they took together."""
    with tempfile.TemporaryDirectory() as folder:
        problem.write_problem(Path(folder), config, pages)
        a = contestants.arrays(Path(folder))
        write = _testing.WritePass(
            f"{folder}/model.safetensors",
            args.device,
            args.precision,
            args.threads,
            a["images"],
            a["transforms"],
            a["x"],
        )
    t = float(a["t"])
    calls: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    for i in range(args.rounds + 3):
        total: dict[str, float] = {}
        phases: list[tuple[str, float]] = write.phases(t)
        for op, seconds in phases:
            total[op] = total.get(op, 0.0) + seconds
        if i >= 3:
            for op, seconds in total.items():
                samples.setdefault(op, []).append(seconds)
                calls[op] = sum(name == op for name, _ in phases)
    return {op: (calls[op], min(seconds)) for op, seconds in samples.items()}


def table(config: Config, pages: int, rates: dict[str, float], args: Any) -> list[dict[str, Any]]:
    """A row for each op, of one call; `share` of the whole pass."""
    measured = times(config, pages, args)
    whole = sum(seconds for _, seconds in measured.values())
    rows = []
    for op, (gflop, far, near) in costs(config, pages, args.precision).items():
        calls, seconds = measured[op]
        seconds /= calls
        arithmetic = gflop / rates[args.precision]
        memory = 1e-3 * (far / rates["l3_gbs"] + near / rates["l2_gbs"])
        rows.append(
            {
                "op": op,
                "us": round(seconds * 1e6, 1),
                "share": round(calls * seconds / whole, 3),
                "gflop": round(gflop, 5),
                "mb": round(far + near, 3),
                "gflop_per_s": round(gflop / seconds, 1),
                "of_peak": round(arithmetic / seconds, 3),
                "of_floor": round(max(arithmetic, memory) / seconds, 3),
                "bound_by": "arithmetic" if arithmetic > memory else "memory",
            }
        )
    rest = 1 - sum(row["share"] for row in rows)
    return [*rows, {"op": "first and last layer", "share": round(rest, 3)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or int8")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--shapes", default="256/64,1024/256", help="D/N,D/N,...")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    # named, because the tests' module would emulate what is missing
    args.device = rtfm_rt.Model("rooms", "cpu", args.precision).device
    rates = peak(args.threads)
    print(f"peak, {args.threads} threads: {rates}")
    result: dict[str, Any] = {"peak": rates, "phases": {}}
    for shape in args.shapes.split(","):
        rows = table(problem.SHAPES[shape], args.pages, rates, args)
        result["phases"][shape] = rows
        print(f"\nD/N {shape}, {args.pages} pages: one call of each op of a block")
        for row in rows:
            print("  " + "  ".join(f"{key} {value}" for key, value in row.items()))
    if args.json:
        about = {
            **machine(),
            "date": time.strftime("%Y-%m-%d"),
            "rtfm_rt": rtfm_rt.__version__,
            "device": args.device,
            "threads": args.threads,
            "pages": args.pages,
            "load_average": [round(value, 2) for value in os.getloadavg()],
            "command": shlex.join(["python", "-m", "benchmarks.phases", *sys.argv[1:]]),
        }
        args.json.write_text(json.dumps({"about": about, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
