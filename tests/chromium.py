# SPDX-License-Identifier: Apache-2.0
"""FRAMEBOY for a browser without a window, in tests and in benchmarks/play.py."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@contextlib.contextmanager
def serve(*options: str) -> Iterator[str]:
    """The address of a server, which runs until the block ends."""
    command = [sys.executable, "-m", "rtfm_rt", "play", "--port", "0", "--no-browser", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert process.stdout is not None
    try:
        found = None
        while found is None:
            line = process.stdout.readline()
            assert line, "the server ended before it said where it is"
            found = re.search(r"http://\S+", line)
        yield found[0]
    finally:
        process.terminate()
        process.communicate(timeout=20)
