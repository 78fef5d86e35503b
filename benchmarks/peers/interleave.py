# SPDX-License-Identifier: Apache-2.0
"""Contestants in processes of their own, taking turns: no two compute at the same time.

Processes keep one library's threads, allocator and caches from helping or hurting another's. All
have the same CPUs. The driver asks each in turn for a burst of consecutive passes, which is what a
real-time loop makes; idle ones have stopped spinning by then.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import contestants

WARM_UP = 3  # passes of a burst that do not count
BURST_SECONDS = 0.15
QUIET = 0.03  # of a pass that threads may wait for a CPU; above it others have disturbed it
LIMITS = {"float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2, "int8": 1e-1}  # error; above: wrong
PATIENCE = 900  # seconds to build, convert and compile


def cpus(threads: int) -> set[int]:
    """The CPUs that everybody gets: as many as threads."""
    return set(sorted(os.sched_getaffinity(0))[:threads])


def waited() -> float:
    """Seconds that this process's threads were ready to run and had no CPU (Linux)."""
    nanoseconds = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, IndexError):
            nanoseconds += int((thread / "schedstat").read_text().split()[1])
    return nanoseconds * 1e-9


def relative_error(x0: NDArray[Any], expected: NDArray[Any]) -> float:
    """‖x0 - expected‖ / ‖expected‖."""
    difference = np.asarray(x0, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def burst(run: Callable[[], Any], count: int, threads: int) -> list[tuple[float, float]]:
    """(seconds, seconds waited) of `count` consecutive passes; of fewer if they take long.

    One thread is timed in CPU time, to which others on the machine add little.
    """
    samples: list[tuple[float, float]] = []
    clock = time.process_time if threads == 1 else time.perf_counter
    began = time.perf_counter()
    gc.disable()
    for i in range(WARM_UP + count):
        before, start = waited(), clock()
        run()
        seconds = clock() - start
        if i >= WARM_UP:
            samples.append((seconds, 0.0 if threads == 1 else waited() - before))
        if len(samples) >= 3 and time.perf_counter() - began > 8 * BURST_SECONDS:
            break
    gc.enable()
    return samples


def serve(connection: Connection, name: str, folder: Path, threads: int) -> None:
    """The process of one contestant: sends its answer once ready, then bursts on request."""
    warnings.simplefilter("ignore")  # exporters talk much
    logging.disable(logging.WARNING)
    try:
        os.sched_setaffinity(0, cpus(threads))
        start = time.perf_counter()
        run, output = contestants.build(name, folder, threads)
        answer = np.array(output(run()), np.float32)
        connection.send(("ready", time.perf_counter() - start, answer))
    except Exception as error:
        connection.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0][:200]))
        return
    start = time.process_time()
    for _ in range(3):
        run()
    pace = (time.process_time() - start) / 3 / threads
    count = int(np.clip(BURST_SECONDS / max(pace, 1e-6), 3, 50))
    while connection.recv() == "burst":
        connection.send(burst(run, count, threads))


class Worker:
    """The driver's end of one contestant. `failure` says why it does not take part, if so."""

    def __init__(self, name: str, folder: Path, threads: int, expected: NDArray[Any]):
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=serve, args=(theirs, name, folder, threads), daemon=True
        )
        self.process.start()
        theirs.close()
        self.failure = ""
        self.samples: list[tuple[float, float]] = []
        self.seconds_to_first = self.error = float("nan")
        limit = LIMITS[name.rsplit(" ", 1)[1]]
        status, *rest = self.receive(PATIENCE)
        if status == "failed":
            self.failure = rest[0]
            return
        self.seconds_to_first, answer = rest
        self.error = relative_error(answer, expected)
        if not self.error <= limit:
            self.failure = f"wrong: error {self.error:.1e}, expected {limit:.0e} at most"

    def receive(self, timeout: float) -> Any:
        try:
            if self.connection.poll(timeout):
                return self.connection.recv()
            return "failed", f"no answer within {timeout} s"
        except EOFError:
            self.process.join()
            return "failed", f"its process ended with {self.process.exitcode}"

    def burst(self) -> None:
        self.connection.send("burst")
        answer = self.receive(PATIENCE)
        if isinstance(answer, tuple):
            self.failure = answer[1]
        else:
            self.samples += answer

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send("end")
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()


@contextlib.contextmanager
def competitor(count: int, on: set[int]) -> Iterator[None]:
    """`count` other processes that compute all the time on those CPUs."""
    code = f"import os\nos.sched_setaffinity(0, {on})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def race(
    folder: Path, names: list[str], rounds: int, threads: int, busy: int = 0
) -> dict[str, dict[str, Any]]:
    """`rounds` turns of all contestants at a problem: a row for each, failures too."""
    expected = contestants.arrays(folder)["x0"]
    workers: dict[str, Worker] = {}
    try:
        for name in names:  # one after the other: some of them measure while they compile
            workers[name] = Worker(name, folder, threads, expected)
        with competitor(busy, cpus(threads)):
            for _ in range(rounds):
                for worker in workers.values():
                    if not worker.failure:
                        time.sleep(0.05)
                        worker.burst()
    finally:
        for worker in workers.values():
            worker.close()
    return {name: row(worker, bool(busy)) for name, worker in workers.items()}


def row(worker: Worker, busy: bool) -> dict[str, Any]:
    """Milliseconds of a pass over undisturbed samples (all, if most are disturbed or ought to be),
    and the error of its result."""
    if worker.failure:
        return {"failed": worker.failure}
    seconds, wait = np.array(worker.samples).T
    quiet = seconds[wait < QUIET * seconds]
    used = seconds if busy or len(quiet) < 0.2 * len(seconds) else quiet
    p50, p99 = np.percentile(used, [50, 99]) * 1e3
    return {
        "p50_ms": round(float(p50), 4),
        "p99_ms": round(float(p99), 4),
        "min_ms": round(float(seconds.min() * 1e3), 4),
        "passes": len(seconds),
        "undisturbed": len(quiet),
        "error": float(f"{worker.error:.3g}"),
        "seconds_to_first": round(worker.seconds_to_first, 2),
    }
