# SPDX-License-Identifier: Apache-2.0
"""One side of a comparison, in a process of its own that computes when it is asked to."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import re
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PATIENCE = 1800  # seconds to load, and for one call


class How(NamedTuple):
    """What rtfm_rt computes on; threads are those of both sides."""

    device: str = "cpu"
    precision: str = "float32"
    threads: int = 2


def peak_mb() -> int:
    """The most memory that this process ever had resident (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024 // 1_000_000


def serve(
    connection: Connection,
    name: str,
    module: str,
    *where: Any,
    checkout: Path | None,
    how: How,
) -> None:
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: how.threads]))
    try:
        family = importlib.import_module(module)
        start = time.perf_counter()
        if name == "ours":
            calls = family.ours(*where, how)
        else:
            import torch

            torch.set_num_threads(how.threads)
            torch.set_grad_enabled(False)
            calls = family.theirs(*where, checkout)
        connection.send((time.perf_counter() - start, list(calls)))
        while label := connection.recv():
            start, cpu = time.perf_counter(), time.process_time()
            answer = calls[label]()
            cost = time.perf_counter() - start, time.process_time() - cpu
            connection.send((cost, np.array(answer), peak_mb()))
    except Exception as error:
        connection.send(f"{name}: {type(error).__name__}: {error}")


class Side:
    """The driver's end. name: "ours" or "theirs". Raises RuntimeError: what went wrong there."""

    def __init__(
        self,
        name: str,
        module: str,
        folder: Path,
        case: str,
        checkout: Path | None,
        how: How,
    ):
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=serve,
            args=(theirs, name, module, folder, case),
            kwargs={"checkout": checkout, "how": how},
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.seconds_to_load, self.labels = self._receive()
        self.costs: dict[str, list[tuple[float, float]]] = {label: [] for label in self.labels}
        self.answers: dict[str, np.ndarray] = {}
        self.peak_mb = 0

    def _receive(self) -> Any:
        if not self.connection.poll(PATIENCE):
            raise RuntimeError(f"expected an answer within {PATIENCE} s, got none")
        answer = self.connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer

    def call(self, label: str, *, counts: bool) -> None:
        """counts: False to warm up. Its seconds and CPU seconds go to `costs`."""
        self.connection.send(label)
        cost, self.answers[label], self.peak_mb = self._receive()
        if counts:
            self.costs[label].append(cost)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()
