# SPDX-License-Identifier: Apache-2.0
"""The one clock of the benchmarks: interleaved rounds and percentiles."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np


def interleave(
    calls: dict[str, Callable[[], object]], rounds: int, burst: int = 8, warmup: int = 3
) -> dict[str, np.ndarray]:
    """Seconds per call of each contestant: `rounds` turns of `burst` consecutive calls each.

    Consecutive calls are what a real-time loop makes (caches warm, threads awake); turns make a
    slow spell of the machine fall on everybody. The first `warmup` calls of a turn do not count.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, call in calls.items():
                for i in range(warmup + burst):
                    start = time.perf_counter()
                    call()
                    if i >= warmup:
                        samples[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: np.array(values) for name, values in samples.items()}


def summary(seconds: np.ndarray) -> dict[str, float]:
    """Milliseconds: p50, p95, p99, max, and the number of calls."""
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3
    return {
        "p50_ms": round(float(p50), 4),
        "p95_ms": round(float(p95), 4),
        "p99_ms": round(float(p99), 4),
        "max_ms": round(float(seconds.max() * 1e3), 4),
        "calls": len(seconds),
    }
