# SPDX-License-Identifier: Apache-2.0
"""Steps per second of models with random weights on one GPU, early and late in a walk.

    python benchmarks/cuda_steps.py [--device cuda] [--cublas PATH] [--quick] [--json FILE]

A step here is all of it: plan, gather, denoising, decoding, the copy of the frame to the host, and
the commit of every frame. Not in the numbers: making and loading the model, the first picture.
Weights are slices of one pool of normal numbers, scaled by the root of their inputs. Every model is
measured in the device's own precision, in float8 where the device has it, and with the cuBLASLt of
--cublas, or of the extra `cuda`, where there is one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timing
import torch

import rtfm_rt
from rtfm_rt import paths
from rtfm_rt.bench import machine
from rtfm_rt.convert import make_manifest
from rtfm_rt.cublas import find as find_cublas
from rtfm_rt.reference import Config, FrameDiT

POOL = 1 << 26  # normal numbers that weights are cut from
PAGES = 40  # at hand: the budget, in pages
WARM_UP = 50


class Case(NamedTuple):
    """height and width in patches of 8; context in frames."""

    rows: int
    cols: int
    width: int
    layers: int
    context: int = 8
    steps: int = 2


CASES = {
    "0.5B, T 256": Case(16, 16, 1280, 25),
    "2B, T 256": Case(16, 16, 2048, 40),
    "2B, T 512": Case(16, 32, 2048, 40),
}
QUICK = {"tiny": Case(2, 3, 64, 2)}


def dimensions(case: Case) -> Config:
    return Config(
        height=8 * case.rows,
        image_width=8 * case.cols,
        patch=8,
        width=case.width,
        layers=case.layers,
        heads=max(1, case.width // 128),
        mlp=4 * case.width,
    )


def write_random_model(path: Path, case: Case) -> int:
    """A model file with bfloat16 weights; returns the number of parameters."""
    config = dimensions(case)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in FrameDiT(config).state_dict().items()}
    rng = np.random.default_rng(0)
    pool = rng.standard_normal(min(POOL, 64 * case.width**2), np.float32)
    source = {"file": "random", "sha256": "0" * 64}
    manifest = make_manifest(config, name="random", licence="Apache-2.0", source=source)
    header: dict[str, Any] = {"__metadata__": {"rtfm": json.dumps(manifest)}}
    at = 0
    for name, shape in shapes.items():
        wide = len(shape) < 2 or name.startswith("time.") or name.endswith("modulation")
        size = int(np.prod(shape)) * (4 if wide else 2)
        header[name] = {
            "dtype": "F32" if wide else "BF16",
            "shape": shape,
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            count = int(np.prod(shape))
            first = int(rng.integers(0, max(1, len(pool) - count)))
            values = np.resize(pool[first : first + count], count)
            values = values / np.float32(shape[-1] ** 0.5 if len(shape) == 2 else 10)
            if name.endswith("_gain"):
                values = 1 + values
            if header[name]["dtype"] == "BF16":
                (values.view(np.uint32) >> 16).astype(np.uint16).tofile(file)
            else:
                values.tofile(file)
    return sum(int(np.prod(shape)) for shape in shapes.values())


def page_bytes(case: Case) -> int:
    return case.layers * 2 * case.rows * case.cols * case.width * 2


def variants(device: str, library: str) -> dict[str, dict[str, str]]:
    """What to measure, by name: options of rtfm_rt.Model. Says what is not."""
    found = {"": {"precision": "auto", "cublas": ""}}
    try:
        rtfm_rt.Model("rooms", device, "float8", "")
        found[", float8"] = {"precision": "float8", "cublas": ""}
    except rtfm_rt.DeviceError as error:
        print(f"float8 is not measured: {error}", flush=True)
    about = rtfm_rt.Model("rooms", device, cublas=library).cublas if library else "no cuBLASLt"
    if about.startswith("cuBLASLt"):
        found[", cuBLASLt"] = {"precision": "auto", "cublas": library}
    else:
        print(f"cuBLASLt is not measured: {about}", flush=True)
    return found


def measure(path: Path, case: Case, frames: int, **options: str) -> dict[str, Any]:
    """Figures of one model: seconds to load, then `frames` steps that are all committed."""
    began = time.perf_counter()
    model = rtfm_rt.Model(str(path), **options)
    loaded = time.perf_counter() - began
    session = rtfm_rt.Session(
        model,
        context=case.context,
        steps=case.steps,
        commit_below=2.0,
        memory_budget=PAGES * page_bytes(case) * 4 // 3,  # a quarter goes to pixels
    )
    made = time.perf_counter() - began - loaded
    height, width = session.image_size
    session.observe(np.zeros((height, width, 3), np.uint8), np.eye(4))
    first = session.step(np.eye(4)).latency
    poses = paths.there_and_back(frames)
    for pose in poses[:WARM_UP]:
        session.step(pose)
    seconds = []
    for pose in poses:
        start = time.perf_counter()
        session.step(pose)
        seconds.append(time.perf_counter() - start)
    tenth = max(1, len(seconds) // 10)
    return {
        "device": session.device,
        "precision": session.precision,
        "cublas": model.cublas,
        "tokens": case.rows * case.cols,
        "width": case.width,
        "layers": case.layers,
        "context": case.context,
        "steps": case.steps,
        "load_s": round(loaded, 3),
        "session_s": round(made, 3),
        "first_frame_ms": round(first * 1e3, 3),
        "steps_per_second": round(len(seconds) / sum(seconds), 3),
        "step": timing.summary(np.array(seconds)),
        "first_tenth": timing.summary(np.array(seconds[:tenth])),
        "last_tenth": timing.summary(np.array(seconds[-tenth:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cublas", help="the path of a libcublasLt.so.13")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    about = {"machine": machine(), "frames": args.frames, "rtfm_rt": rtfm_rt.__version__}
    library = find_cublas(args.device) if args.cublas is None else args.cublas
    wanted = variants(args.device, library)
    for case_name, case in (QUICK if args.quick else CASES).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "random.safetensors"
            parameters = write_random_model(path, case)
            for variant, options in wanted.items():
                name = case_name + variant
                figures = measure(path, case, args.frames, device=args.device, **options)
                results[name] = {"parameters": parameters, **figures}
                print(f"{name}: {json.dumps(results[name])}", flush=True)
                if args.json:  # at once: the next one may run out of time
                    text = json.dumps({**about, "models": results}, indent=1)
                    args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
