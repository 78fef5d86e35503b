# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed while they save."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import rtfm_rt


def while_saving(
    session: rtfm_rt.Session, path: os.PathLike[str], step: Callable[[], object], seconds: float
) -> list[int]:
    """Steps and saves all the time in another process, and kills it that long after the first save.

    The newest frame of each save that returned and was heard of.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        while True:
            step()
            session.save(path)
            os.write(write, b"%d\n" % (session.memory.ids[-1]))
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        lines.readline()  # the first save has returned
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        returned = [int(line) for line in lines.read().split()]
    os.waitpid(child, 0)
    return returned
