# SPDX-License-Identifier: Apache-2.0
"""What a whole process costs: start, memory, disk, idling, and a neighbour that computes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt
from benchmarks.peers import fresh, interleave, problem
from rtfm_rt import bench
from rtfm_rt.session import model_path

DISTRIBUTIONS = {
    "rtfm_rt": "rtfm_rt",
    "PyTorch eager": "torch",
    "torch.compile": "torch",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
}


def measure(threads: int, wheel: Path | None, names: list[str], quick: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"start": start(names, threads, 1 if quick else 5)}
    result["ours"] = ours(threads, 30 if quick else 500)
    families = [family for family in DISTRIBUTIONS if any(n.startswith(family) for n in names)]
    result["installed_mb"] = {family: installed_mb(DISTRIBUTIONS[family]) for family in families}
    if wheel:
        result["wheel"] = wheel_mb(wheel)
    for kind, row in result.items():
        print(f"\n{kind}")
        for key, value in row.items():
            print(f"  {key:36} {value}")
    return result


def start(names: list[str], threads: int, repeats: int) -> dict[str, Any]:
    """Fresh processes up to the first frame of the demo model in float32: medians, warm file cache.

    What converts a model for a peer, and compiles it into its cache, has been done before.
    """
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        model.symlink_to(model_path("rooms"))
        problem.write_arrays(Path(folder), model, 1)
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        for name in (name for name in names if name.endswith("float32")):
            command = [sys.executable, "-m", fresh.__name__, name, folder, str(threads)]
            runs = [run(command, environment) for _ in range(repeats + 1)]
            failed = [r for r in runs if "failed" in r]
            rows[name] = failed[0] if failed else medians(runs[1:])
            if not failed and name.startswith("torch.compile"):
                rows[f"{name}, cache empty"] = runs[0]
    return rows


def run(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """And the fastest total."""
    row = {key: round(float(np.median([r[key] for r in runs])), 4) for key in runs[0]}
    return {**row, "fastest_s": min(r["total_s"] for r in runs)}


def ours(threads: int, frames: int) -> dict[str, Any]:
    """The demo model through the public API: jitter, a busy neighbour, idling."""
    quiet = bench.measure(rtfm_rt.Session("rooms", threads=threads), frames)["latency_ms"]
    with interleave.competitor(1, interleave.cpus(threads)):
        busy = bench.measure(rtfm_rt.Session("rooms", threads=threads), frames)["latency_ms"]
    session = rtfm_rt.Session("rooms", threads=threads)
    session.observe(np.zeros((*session.image_size, 3), np.uint8), np.eye(4))
    session.step(np.eye(4))
    time.sleep(0.1)
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(2)
    idle = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return {
        "frame_ms": quiet,
        "frame_ms beside one busy process": busy,
        "p99 / p50": round(quiet["p99"] / quiet["p50"], 3),
        "p50 busy / quiet": round(busy["p50"] / quiet["p50"], 2),
        "p99 busy / p50 quiet": round(busy["p99"] / quiet["p50"], 2),
        "idle_cpu_percent": round(100 * idle, 3),
        "weights_mib_as_float32": round(session.model.parameters * 4 / 2**20, 1),
    }


def installed_mb(distribution: str) -> float | str:
    """Of its files and those of everything that it depends on, 10⁶ bytes."""
    todo, done, total = [distribution], set(), 0
    while todo:
        name = todo.pop().lower().replace("-", "_")
        if name in done:
            continue
        done.add(name)
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == distribution.lower():
                return "not installed"
            continue  # of another platform, or not needed here
        for file in found.files or []:
            path = Path(str(found.locate_file(file)))
            total += path.stat().st_size if path.is_file() else 0
        for requirement in found.requires or []:
            if "extra ==" not in requirement:
                todo.append(re.split(r"[^\w.-]", requirement)[0])
    return round(total / 1e6, 1)


def wheel_mb(wheel: Path) -> dict[str, float]:
    """Size of the file, and without what the bundled model's weights take in it, 10⁶ bytes."""
    with zipfile.ZipFile(wheel) as archive:
        weights = sum(
            i.compress_size for i in archive.infolist() if i.filename.endswith(".safetensors")
        )
    size = wheel.stat().st_size
    return {"mb": round(size / 1e6, 2), "without_model_mb": round((size - weights) / 1e6, 2)}
