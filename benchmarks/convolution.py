# SPDX-License-Identifier: Apache-2.0
"""Convolutions of the codec TAEHV beside PyTorch's: one run, float32, taking turns.

    python -m benchmarks.convolution [--threads 1] [--rounds 7] [--json FILE]

From the root of the repository; needs rtfm_rt._testing and PyTorch. Ours reads places in rows and
writes them with bias and ReLU; PyTorch's is conv2d then relu_ in the layout, channels_last or not,
that is faster for it. Medians of CPU time, all threads together, to which others on the machine add
little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rtfm_rt import _testing
from rtfm_rt.bench import machine

# height, width, channels in and out, stride: of frames of 512x256
CASES = [
    (16, 32, 512, 256, 1),
    (16, 32, 256, 256, 1),
    (32, 64, 256, 128, 1),
    (32, 64, 128, 128, 1),
    (64, 128, 128, 64, 1),
    (64, 128, 64, 64, 1),
    (128, 256, 64, 64, 1),
    (128, 256, 64, 64, 2),
    (128, 256, 64, 12, 1),
]
CALLS = 5


def torch_seconds(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, stride: int) -> float:
    start = time.process_time()
    for _ in range(CALLS):
        F.conv2d(x, w, bias, stride, padding=1).relu_()
    return (time.process_time() - start) / CALLS


def measure(case: tuple[int, ...], rounds: int, threads: int) -> dict[str, Any]:
    height, width, inputs, outputs, stride = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((height * width, inputs), np.float32)
    w = rng.standard_normal((outputs, 9 * inputs), np.float32) / 100
    bias = rng.standard_normal(outputs, np.float32)
    plain = torch.from_numpy(x).reshape(1, height, width, inputs).permute(0, 3, 1, 2).contiguous()
    kernel = torch.from_numpy(w).reshape(outputs, 3, 3, inputs).permute(0, 3, 1, 2).contiguous()
    last = torch.channels_last
    layouts = {"nchw": (plain, kernel)}
    layouts["channels_last"] = tuple(t.contiguous(memory_format=last) for t in (plain, kernel))
    codec = _testing.Codec("cpu:avx512", threads=threads)
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in layouts}}
    for turn in range(rounds + 1):
        codec.convolution(
            x, width, w, bias, stride=stride, epilogue="relu", calls=CALLS + 1 if turn else 1
        )
        if turn:
            seconds["ours"].append(statistics.mean(codec.seconds[1:]))
        for name, (a, b) in layouts.items():
            taken = torch_seconds(a, b, torch.from_numpy(bias), stride)
            if turn:
                seconds[name].append(taken)
    ours, *theirs = (statistics.median(s) for s in seconds.values())
    flops = 2 * 9 * inputs * outputs * height * width / stride**2
    return {
        "case": f"{height}x{width}, {inputs} -> {outputs}, stride {stride}",
        "ours_ms": round(ours * 1e3, 3),
        "torch_ms": round(min(theirs) * 1e3, 3),
        "ratio": round(min(theirs) / ours, 2),
        "ours_gflops": round(flops / ours / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    rows = []
    for case in CASES:
        rows.append(measure(case, args.rounds, args.threads))
        print(rows[-1], flush=True)
    about = {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "threads": args.threads,
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "command": "python -m benchmarks.convolution",
    }
    if args.json:
        args.json.write_text(json.dumps({"about": about, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
