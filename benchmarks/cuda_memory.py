# SPDX-License-Identifier: Apache-2.0
"""The memory-bound ops on a GPU, beside a plain copy on the device in the same run.

    python benchmarks/cuda_memory.py [--device cuda] [--quick] [--json FILE]

Launches are replayed from a recording and take their operands in turn from more memory than caches
hold, filled with normal numbers. Bytes are those that an op must read and write once. The copy is
PyTorch's; without a GPU for PyTorch its figure is left out. Needs a build with RTFM_TESTING=ON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtfm_rt import _testing

NORMS = [(256, 1280), (256, 2048), (512, 2048), (65536, 2048)]  # rows, cols
GATHERS = [(25, 8, 256, 10, 128), (40, 8, 512, 16, 128)]  # layers, pages, tokens, heads, dim
COPY = 1 << 30


def copy_rate() -> float:
    """Bytes per second of a large copy on the device, read and written."""
    source, target = (torch.empty(COPY, dtype=torch.uint8, device="cuda") for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    rates = []
    for _ in range(12):
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        rates.append(2 * COPY / (start.elapsed_time(end) * 1e-3))
    return float(np.median(rates[2:]))


def row(shape: dict[str, int], seconds: list[float], size: int, copy: float | None) -> Any:
    """shape, median microseconds, TB/s, and the share of the copy's rate."""
    rate = size / float(np.median(seconds))
    found = {**shape, "us": float(np.median(seconds)) * 1e6, "tb_per_s": rate * 1e-12}
    return {**found, "of_copy": rate / copy} if copy else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="one small shape of each op")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    copy = copy_rate() if args.device == "cuda" and torch.cuda.is_available() else None
    timed: dict[str, Any] = {"device": args.device, "calls": 64, "rounds": 12}
    if args.quick:
        timed |= {"calls": 2, "rounds": 2}

    norms, gathers = [], []
    for rows, cols in [(16, 64)] if args.quick else NORMS:
        seconds = _testing.time_norm(rows=rows, cols=cols, **timed)
        norms.append(row({"rows": rows, "cols": cols}, seconds, 6 * rows * cols, copy))
    for layers, pages, tokens, heads, dim in [(2, 2, 24, 2, 64)] if args.quick else GATHERS:
        shape = {"layers": layers, "pages": pages, "tokens": tokens, "heads": heads, "dim": dim}
        size = 2 * layers * pages * 2 * tokens * heads * dim * 2
        gathers.append(row(shape, _testing.time_gather(**shape, **timed), size, copy))
    found = {"device": args.device, "norm_modulate": norms, "gather": gathers}
    if copy:
        found["copy_tb_per_s"] = copy * 1e-12
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
