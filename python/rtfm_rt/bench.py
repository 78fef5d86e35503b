# SPDX-License-Identifier: Apache-2.0
"""What a step costs, measured the way an application calls it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rtfm_rt import Session, __version__, paths

WARM_UP = 20  # frames that do not count
RECEIPT = ("id", "latency", "steps", "context", "support", "committed", "late")
NOT_COUNTED = "loading the model, observing pictures, whatever the caller does with the frame"


def measure(
    session: Session, frames: int, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Times `frames` steps with a full context: there and back in a world that is known, or, of
    models that go by actions, from frame to frame.

    session: a fresh one. Returns figures for JSON: `latency_ms` (p50, p95, p99, max),
    `frames_per_second`, the seconds and receipt of every step, and what machine it was.
    """
    goals = _by_actions(session, frames) if session.actions else _by_poses(session, frames)
    seconds, receipts = [], []
    for goal in goals:
        began = time.perf_counter()
        frame = session.step(**goal)
        seconds.append(time.perf_counter() - began)
        receipts.append({key: getattr(frame, key) for key in RECEIPT})
        advance()
    p50, p95, p99 = (float(v) for v in np.percentile(seconds, (50, 95, 99)) * 1e3)
    return {
        "rtfm_rt": __version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "model": session.model.manifest["name"],
        "device": session.device,
        "precision": session.precision,
        "threads": session.threads,
        "steps": session.steps,
        "context": session.context,
        "image_size": list(session.image_size),
        "frames": frames,
        "warm_up": 1 if session.actions else WARM_UP,
        "frames_per_second": len(seconds) / sum(seconds),
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99, "max": max(seconds) * 1e3},
        "committed": sum(bool(r["committed"]) for r in receipts),
        "not_counted": NOT_COUNTED,
        "seconds": seconds,
        "receipts": receipts,
    }


def _by_poses(session: Session, frames: int) -> list[dict[str, Any]]:
    """Remembers a context and warms up; then there and back."""
    poses = paths.there_and_back(frames)
    for i, pose in enumerate(paths.look_around(session.context)):
        session.observe(test_picture(session.image_size, i), pose)
    for i in range(WARM_UP):
        session.imagine([poses[i % len(poses)]])
    return [{"pose": pose} for pose in poses]


def _by_actions(session: Session, frames: int) -> list[dict[str, Any]]:
    """Fills the window with frames and warms up once; then no action at all."""
    for i in range(session.context):
        session.observe(test_picture(session.image_size, i))
    session.imagine(actions=[{}])
    return [{"action": {}}] * frames


def machine() -> dict[str, Any]:
    """Processor, its SIMD extensions that matter here, system and versions."""
    processor, extensions = platform.processor(), ""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        fields = dict(line.strip().split("\t", 1) for line in file if "\t" in line)
        fields = {key: value.lstrip("\t: ") for key, value in fields.items()}
        arm = [fields[key] for key in ("CPU implementer", "CPU part") if key in fields]
        processor = fields.get("model name", " ".join(arm) or processor)
        known = {"avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}
        extensions = " ".join(sorted(known & set(fields.get("flags", "").split())))
    return {
        "processor": processor,
        "extensions": extensions,
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def test_picture(size: tuple[int, int], shift: int) -> np.ndarray:
    """Coloured gradients, (height, width, 3) uint8; what is shown does not change the cost."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    channels = (255 * x // width, 255 * y // height, (x + y + 16 * shift) % 256)
    return np.stack(channels, axis=-1).astype(np.uint8)
