# SPDX-License-Identifier: Apache-2.0
"""From nothing to the first frame of the demo model, in this fresh process:

    python -m benchmarks.peers.fresh CONTESTANT FOLDER THREADS

Prints one JSON line: seconds of the import, of loading and building, of the first frame (for peers:
as many write passes as a frame has denoising steps), and the peak of resident memory. Reading the
peers' inputs, which rtfm_rt makes itself, is not counted.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

STEPS = 2  # of the demo model
MODULES = {
    "rtfm_rt": "rtfm_rt",
    "PyTorch eager": "torch",
    "torch.compile": "torch",
    "ONNX Runtime": "onnxruntime",
    "OpenVINO": "openvino",
}


def peak_mib() -> float:
    """Of this process image alone (getrusage would count the parent's, too)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")


def main() -> None:
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    family, _ = name.rsplit(" ", 1)
    imported = time.perf_counter()
    importlib.import_module(MODULES[family])
    marks = [time.perf_counter() - imported]
    began = time.perf_counter()
    if family == "rtfm_rt":
        import numpy as np

        import rtfm_rt

        session = rtfm_rt.Session("rooms", precision=name.split()[-1], threads=threads)
        marks.append(time.perf_counter() - began)
        image, pose = np.zeros((*session.image_size, 3), np.uint8), np.eye(4)
        began = time.perf_counter()
        session.observe(image, pose)
        session.step(pose)
    else:
        from benchmarks.peers import contestants

        a = contestants.arrays(folder)  # into the file cache
        began = time.perf_counter()
        run, output = contestants.build(name, folder, threads)
        marks.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(STEPS):
            result = output(run())
        assert result.shape == a["x"].shape
    marks.append(time.perf_counter() - began)
    keys = ("import_s", "load_s", "first_frame_s")
    figures = {key: round(seconds, 4) for key, seconds in zip(keys, marks, strict=True)}
    figures["total_s"] = round(sum(marks), 4)
    print(json.dumps({**figures, "peak_mib": peak_mib()}), flush=True)
    os._exit(0)  # how long a library takes to end is no part of this


if __name__ == "__main__":
    main()
