# SPDX-License-Identifier: Apache-2.0
"""Attention and matmul of the CUDA backend, one by one, on the GPU at hand.

    python benchmarks/cuda_ops.py [--cublas PATH] [--json benchmarks/results/FILE.json]

Needs nvcc >= 13.0 and g++; neither this package nor PyTorch. Each case replays a graph that goes
round input sets larger than the L2 cache together; the time is the median replay over its launches.
Before, it poisons its output and compares sampled rows with float32 on the GPU. "share" is of the
data sheet's rate for the matrix units at the highest clock. Where PyTorch with CUDA is installed,
its fused attentions and its linear layer run the same shapes, timed the same way. With the path of
a libcublasLt.so.13, "cublas_us" is the product that the runtime takes from there, epilogue and all,
and "cublas_best_us" the fastest of eight that the library proposes: what timing them would bring.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "csrc" / "cuda"
FLOP_PER_CLOCK = {(8, 0): 2048, (9, 0): 4096, (10, 0): 8192}  # of one SM, bf16, dense; e4m3 doubles
ALLOWED = {"store": 1e-3, "gated": 1e-3}  # others are rounded to bf16, by 2^-9


def build(folder: Path) -> Path:
    """The benchmark's own program, for the GPU at hand."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    program = folder / "cuda_ops"
    sources = [CUDA / f"{name}.cc" for name in ("tensor_ops", "plan", "cubins", "cublas")]
    command = [nvcc, "-std=c++20", "-O2", "-arch=native", f"-I{ROOT}",
               f'-DRTFM_CUBINS="{CUDA / "kernels/cubins"}"',
               ROOT / "benchmarks/cuda_ops.cu", *sources, "-ldl", "-o", program]  # fmt: skip
    subprocess.run(command, check=True)
    return program


def ours(cublas: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The device, and a row for each case. cublas: the path of a library, if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [build(Path(folder)), *cublas]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if not run.stdout:
        run.check_returncode()
    device, *rows = map(json.loads, run.stdout.splitlines())
    rate = FLOP_PER_CLOCK.get(tuple(device["capability"]), 0)
    peak = rate * device["sms"] * device["clock_mhz"] * 1e-6  # TFLOP/s
    for row in rows:
        if peak:
            row["share"] = round(row["tflops"] / (peak * (2 if row["dtype"] == "e4m3" else 1)), 3)
        error = max(row["error"], row.get("cublas_error", 0))
        row["ok"] = error <= ALLOWED.get(row.get("epilogue"), 1e-2)
    device["ended"] = run.returncode  # not 0: the case after the last row failed
    return device, rows


def replay_time(torch: Any, calls: list[Callable[[], Any]]) -> float:
    """Microseconds of one call, as cuda_ops.cu measures."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph, launches = torch.cuda.CUDAGraph(), len(calls) * math.ceil(20 / len(calls))
    with torch.cuda.graph(graph):
        for i in range(launches):
            calls[i % len(calls)]()
    times = []
    for _ in range(18):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times[3:])[7] * 1e3 / launches


def peers(rows: list[dict[str, Any]]) -> None:
    """Adds PyTorch's time of each bf16 shape: K and V dense, a linear layer without epilogue."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import linear, scaled_dot_product_attention

    def random(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    cache = torch.cuda.get_device_properties(0).L2_cache_size
    for row in rows:
        if row["dtype"] != "bf16":
            continue
        if row["op"] == "matmul":
            x, w = (row["rows"], row["k"]), (row["n"], row["k"])
            sets = min(64, 2 * cache // (2 * (math.prod(x) + math.prod(w))) + 2)
            inputs = [(random(*x), random(*w)) for _ in range(sets)]
            calls = [lambda x=x, w=w: linear(x, w) for x, w in inputs]
            row["torch_linear_us"] = round(replay_time(torch, calls), 3)
            continue
        if row["group"] > 1:
            continue
        q, keys = (1, row["heads"], row["tokens"], row["dim"]), row["tokens"] * row["slots"]
        k = (1, row["heads"], keys, row["dim"])
        sets = min(64, 2 * cache // (4 * math.prod(k)) + 2)
        heads = [(random(*q), random(*k), random(*k)) for _ in range(sets)]
        calls = [lambda h=h: scaled_dot_product_attention(*h) for h in heads]
        for name in "cudnn", "flash":
            try:
                with sdpa_kernel(getattr(SDPBackend, f"{name.upper()}_ATTENTION")):
                    row[f"torch_{name}_us"] = round(replay_time(torch, calls), 3)
            except RuntimeError as problem:  # a backend that this build or GPU lacks
                print(f"{name}: {str(problem).splitlines()[0]}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--cublas", help="the path of a libcublasLt.so.13")
    options = parser.parse_args()
    device, rows = ours([options.cublas] if options.cublas else [])

    def show() -> None:
        print(json.dumps(device))
        for row in rows:
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps({"device": device, "rows": rows}, indent=1) + "\n")

    show()  # at once: what follows may run out of time
    try:
        import torch

        if torch.cuda.is_available():
            device["torch"] = torch.__version__
            peers(rows)
            show()
    except ImportError:
        pass
    wrong = [row for row in rows if not row["ok"]]
    print(f"{len(rows)} cases, {len(wrong)} wrong")
    return bool(wrong) or device["ended"]


if __name__ == "__main__":
    sys.exit(main())
