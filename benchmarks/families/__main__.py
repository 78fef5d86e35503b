# SPDX-License-Identifier: Apache-2.0
"""A family of models in rtfm_rt and in its authors' code: same weights, same inputs, one run.

    python -m benchmarks.families efficient_lvsm CHECKOUT [--rounds 5] [--threads 2] [--case NAME]
        [--precision int8] [--json benchmarks/results/families-DATE.json]

From the root of the repository; CHECKOUT is the authors' code, whose Python dependencies are
installed where this runs. A random checkpoint of the published size goes through the converter, and
their side computes in float32, ours so or as asked, each in a process of its own, taking turns.
With --json the figures
of this family are added to the file.

A family is a module beside this one with

    CASES            names of what is measured
    write(folder, case)               a checkpoint, model.safetensors made of it, and the inputs
    ours(folder, case, threads, precision)
                      {label: function that makes uint8 (..., height, width, 3)}
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
from benchmarks.families.side import Side
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


def figures(ours: Side, theirs: Side, label: str) -> dict[str, Any]:
    """Medians, and theirs over ours. CPU seconds are of all threads: what others do on the machine
    adds less to them than to seconds."""
    result: dict[str, Any] = {}
    costs = {"ours": np.array(ours.costs[label]), "theirs": np.array(theirs.costs[label])}
    for column, unit in enumerate(("seconds", "cpu_seconds")):
        row = {name: float(np.median(cost[:, column])) for name, cost in costs.items()}
        row["ratio"] = row["theirs"] / row["ours"]
        result[unit] = {name: float(f"{value:.4g}") for name, value in row.items()}
    samples = {name: [[float(f"{x:.4g}") for x in c] for c in cost] for name, cost in costs.items()}
    return {**result, **difference(ours.answers[label], theirs.answers[label]), "samples": samples}


def measure(
    family: Any, case: str, checkout: Path, rounds: int, threads: int, precision: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn = multiprocessing.get_context("spawn")
        writer = spawn.Process(target=family.write, args=(folder, case))  # its memory is given back
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"{case}: the model file could not be written")
        where = family.__name__, folder, case, checkout, threads, precision
        ours, theirs = Side("ours", *where), Side("theirs", *where)
        try:
            if ours.labels != theirs.labels:
                raise ValueError(f"expected equal calls, got {ours.labels} and {theirs.labels}")
            for turn in range(rounds + 1):  # the first one warms up
                for label in ours.labels:
                    for side in (ours, theirs):
                        side.call(label, counts=turn > 0)
        finally:
            ours.close()
            theirs.close()
    return {
        **{label: figures(ours, theirs, label) for label in ours.labels},
        "peak_mb": {"ours": ours.peak_mb, "theirs": theirs.peak_mb},
        "seconds_to_load": {
            "ours": round(ours.seconds_to_load, 2),
            "theirs": round(theirs.seconds_to_load, 2),
        },
    }


def about(threads: int, precision: str) -> dict[str, Any]:
    words = ["CHECKOUT" if os.path.isdir(word) else word for word in sys.argv[1:]]
    return {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "rtfm_rt": rtfm_rt.__version__,
        "device": rtfm_rt.Model("rooms", "cpu", precision).device,
        "torch": metadata.version("torch"),
        "threads": threads,
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
    parser.add_argument("checkout", type=Path, help="the authors' code")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32", help="of ours (float32)")
    parser.add_argument("--case", help="one of the family's, for all of them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    family = importlib.import_module(f"benchmarks.families.{args.family}")
    for case in [args.case] if args.case else family.CASES:
        checkout, precision = args.checkout.resolve(), args.precision
        row = measure(family, case, checkout, args.rounds, args.threads, precision)
        print(f"\n{args.family}, {case}")
        for label, figures in row.items():
            shown = {key: value for key, value in figures.items() if key != "samples"}
            print(f"  {label:28}" + ", ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
        if args.json:
            name = args.family + ("" if args.precision == "float32" else f" {args.precision}")
            save(args.json, name, case, row, about(args.threads, args.precision))


if __name__ == "__main__":
    main()
