# SPDX-License-Identifier: Apache-2.0
"""A family of models in rtfm_rt and in its authors' code: same weights, same inputs, one run.

    python -m benchmarks.families efficient_lvsm [CHECKOUT] [--rounds 5] [--threads 2] [--case NAME]
        [--device cuda] [--precision int8] [--json benchmarks/results/families-DATE.json]

From the root of the repository; CHECKOUT is the authors' code, whose Python dependencies are
installed where this runs. A random checkpoint of the published size goes through the converter, and
their side computes in float32 on the CPU, ours so or as asked, each in a process of its own, taking
turns. Without CHECKOUT ours is measured alone, as it must be on another device than the CPU. With
--json the figures of this family are added to the file.

A family is a module beside this one with

    CASES            names of what is measured
    write(folder, case)               a checkpoint, model.safetensors made of it, and the inputs
    ours(folder, case, how)           {label: function that makes uint8 (..., height, width, 3)}
    theirs(folder, case, checkout)    the same labels, the same frames as floats in [0, 1]

that imports PyTorch in `write` and `theirs` only, so that it is not in the memory of our side.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt
from benchmarks.families.side import How, Side
from rtfm_rt.bench import machine


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Of 8-bit pixels: the worst beyond rounding, in steps, and the share that rounds elsewhere."""
    if ours.shape != theirs.shape:
        raise ValueError(f"expected frames of one shape, got {ours.shape} and {theirs.shape}")
    exact = np.clip(theirs, 0, 1).astype(np.float64) * 255
    return {
        "worst_step": round(float(max(np.abs(ours - exact).max() - 0.5, 0)), 6),
        "differ": float(f"{(ours != np.rint(exact)).mean():.3g}"),
    }


def figures(sides: dict[str, Side], label: str) -> dict[str, Any]:
    """Medians, and theirs over ours. CPU seconds are of all threads: what others do on the machine
    adds less to them than to seconds."""
    result: dict[str, Any] = {}
    costs = {name: np.array(side.costs[label]) for name, side in sides.items()}
    for column, unit in enumerate(("seconds", "cpu_seconds")):
        row = {name: float(np.median(cost[:, column])) for name, cost in costs.items()}
        if "theirs" in row:
            row["ratio"] = row["theirs"] / row["ours"]
        result[unit] = {name: float(f"{value:.4g}") for name, value in row.items()}
    if "theirs" in sides:
        result |= difference(*(side.answers[label] for side in sides.values()))
    samples = {name: [[float(f"{x:.4g}") for x in c] for c in cost] for name, cost in costs.items()}
    return {**result, "samples": samples}


def measure(family: Any, case: str, checkout: Path | None, rounds: int, how: How) -> dict[str, Any]:
    """checkout: None for our side alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn = multiprocessing.get_context("spawn")
        writer = spawn.Process(target=family.write, args=(folder, case))  # its memory is given back
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"{case}: the model file could not be written")
        where = family.__name__, folder, case, checkout, how
        sides = {
            name: Side(name, *where) for name in (["ours", "theirs"] if checkout else ["ours"])
        }
        try:
            labels = sides["ours"].labels
            if any(side.labels != labels for side in sides.values()):
                raise ValueError(f"expected {labels} of both, got {sides['theirs'].labels}")
            for turn in range(rounds + 1):  # the first one warms up
                for label in labels:
                    for side in sides.values():
                        side.call(label, counts=turn > 0)
        finally:
            for side in sides.values():
                side.close()
    return {
        **{label: figures(sides, label) for label in labels},
        "peak_mb": {name: side.peak_mb for name, side in sides.items()},
        "seconds_to_load": {name: round(s.seconds_to_load, 2) for name, s in sides.items()},
    }


def about(how: How) -> dict[str, Any]:
    words = ["CHECKOUT" if os.path.isdir(word) else word for word in sys.argv[1:]]
    model = rtfm_rt.Model("rooms", how.device, how.precision)
    return {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "rtfm_rt": rtfm_rt.__version__,
        "device": model.device,
        "cublas": model.cublas,
        "torch": metadata.version("torch"),
        "threads": how.threads,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "command": shlex.join(["python", "-m", "benchmarks.families", *words]),
    }


def save(path: Path, family: str, case: str, row: dict[str, Any], about: dict[str, Any]) -> None:
    """Adds the figures of a case to the file; an interrupted run leaves those it has."""
    known = json.loads(path.read_text()) if path.exists() else {}
    results = known.get(family, {}).get("results", {})
    known[family] = {"about": about, "results": {**results, case: row}}
    path.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", help="the name of a module of benchmarks/families")
    parser.add_argument(
        "checkout", type=Path, nargs="?", help="the authors' code; none: ours alone"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of ours (cpu)")
    parser.add_argument("--precision", help="of ours (float32 on the CPU, bfloat16 elsewhere)")
    parser.add_argument("--case", help="one of the family's, for all of them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    on_cpu = args.device.startswith("cpu")
    if args.checkout and not on_cpu:
        parser.error("expected no checkout with --device: the authors' side runs on the CPU")
    precision = args.precision or ("float32" if on_cpu else "bfloat16")
    how = How(args.device, precision, args.threads)
    kind = " ".join(x for x in (args.device, precision) if x not in ("cpu", "float32"))
    family = importlib.import_module(f"benchmarks.families.{args.family}")
    for case in [args.case] if args.case else family.CASES:
        checkout = args.checkout.resolve() if args.checkout else None
        row = measure(family, case, checkout, args.rounds, how)
        print(f"\n{args.family}, {case}")
        for label, figures in row.items():
            shown = {key: value for key, value in figures.items() if key != "samples"}
            print(f"  {label:28}" + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
        if args.json:
            save(args.json, f"{args.family} {kind}".strip(), case, row, about(how))


if __name__ == "__main__":
    main()
