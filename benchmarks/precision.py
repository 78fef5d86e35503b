# SPDX-License-Identifier: Apache-2.0
"""What fewer bits cost in quality beside a device's own precision: layers, a large random model,
frames of rooms.

    python benchmarks/precision.py [--device cuda | cpu] [--narrow bfloat16] [--quick] [--json FILE]

On a GPU that is float8 beside bfloat16, on a CPU int8, or bfloat16, beside float32.
Errors are relative, in the Euclidean norm. Layers are normal numbers against float64; the large
model has the weights of cuda_steps.py and makes one frame from noise; frames are the bundled
model's, of 24 rooms that training never saw, from 4 pictures and noise that is the same in both.
Needs a build with RTFM_TESTING=ON; --device cuda:emulated wants no GPU and takes ten minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import heldout
import numpy as np
from cuda_steps import Case, write_random_model

import rtfm_rt
from rtfm_rt import _testing
from rtfm_rt.session import model_path

PICTURES, VIEWS = 4, 2  # of a room: observed, then asked for
Devices = dict[str, str]  # by precision: a device's own, then the narrow one
LAYERS = [(3840, 1280), (1280, 5120), (6144, 2048), (2048, 8192)]  # n, k
LARGE, SMALL = Case(8, 8, 1280, 25), Case(2, 3, 64, 2)


def error(got: np.ndarray, want: np.ndarray) -> float:
    return round(float(np.linalg.norm(got - want) / np.linalg.norm(want)), 5)


def devices(device: str, narrow: str | None) -> Devices:
    cpu = device.startswith("cpu")
    pair = ("float32", narrow or "int8") if cpu else ("bfloat16", narrow or "float8")
    if not cpu:
        return dict.fromkeys(pair, device)
    # named, because the tests' module would emulate what is missing
    return {precision: rtfm_rt.Model("rooms", device, precision).device for precision in pair}


def layer(devices: Devices, n: int, k: int) -> dict[str, Any]:
    """The error of y = x wᵀ for 64 rows."""
    rng = np.random.default_rng(n + k)
    x, w = (rng.standard_normal((rows, k), np.float32) for rows in (64, n))
    want = x.astype(np.float64) @ w.astype(np.float64).T
    errors = {p: error(_testing.Device(d, p).matmul(x, w), want) for p, d in devices.items()}
    return {"n": n, "k": k, **errors}


def random_model(devices: Devices, case: Case) -> dict[str, Any]:
    """The error of the narrow precision in what a model makes of a picture and of noise."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8 * case.rows, 8 * case.cols, 3), np.uint8)
    noise = rng.standard_normal((case.rows * case.cols, 192), np.float32)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        parameters = write_random_model(path, case)
        for precision, device in devices.items():
            network = _testing.Network(str(path), device, precision, pages=1)
            made.append((network.read(image)[-1], network.sample(noise, case.steps, [])))
    (page, frame), (narrow_page, narrow_frame) = made
    about = {"parameters": parameters, "width": case.width, "layers": case.layers}
    return {
        **about,
        "last_keys_and_values": error(narrow_page, page),
        "frame": error(narrow_frame, frame),
    }


def frames(devices: Devices, rooms: int) -> dict[str, Any]:
    """PSNR in dB of the bundled model's frames, means and the least."""
    data = heldout.load_rooms()
    made: dict[str, list[np.ndarray]] = {precision: [] for precision in devices}
    for precision, device in devices.items():
        for images, poses in zip(data.images[:rooms], data.poses, strict=False):
            session = _testing.Session(model_path("rooms"), device=device, precision=precision)
            for image, pose in zip(images[:PICTURES], poses, strict=False):
                session.observe(image, pose)
            for pose in poses[PICTURES:][:VIEWS]:
                made[precision].append(session.imagine(pose)["images"][-1])
    truth = data.images[:rooms, PICTURES:][:, :VIEWS].reshape(-1, *data.images.shape[2:])
    wide, narrow = made.values()
    between = [heldout.psnr(a, b) for a, b in zip(narrow, wide, strict=True)]
    found: dict[str, Any] = {"frames": len(between)}
    found["_to_".join(reversed(made))] = round(float(np.mean(between)), 2)
    found["least"] = round(min(between), 2)
    for precision in made:
        values = [heldout.psnr(a, b) for a, b in zip(made[precision], truth, strict=True)]
        found[f"{precision}_to_truth"] = round(float(np.mean(values)), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--narrow", help="bfloat16, float8 or int8")
    parser.add_argument("--quick", action="store_true", help="a layer, a tiny model, one room")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    used = devices(args.device, args.narrow)
    results: dict[str, Any] = {"device": args.device, "devices": used}
    results["layers"] = [layer(used, *shape) for shape in LAYERS[: 1 if args.quick else 4]]
    results["random_model"] = random_model(used, SMALL if args.quick else LARGE)
    results["frames"] = frames(used, 1 if args.quick else 24)
    print(json.dumps(results, indent=1))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
