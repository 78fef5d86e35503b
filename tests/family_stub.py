# SPDX-License-Identifier: Apache-2.0
"""A family as benchmarks/families measures them, without a model: frames of one colour."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.families.side import How

CASES = {"grey": 100, "broken": 0}


def write(folder: Path, case: str) -> None:
    (folder / "grey").write_text(str(CASES[case]))


def ours(folder: Path, case: str, how: How) -> dict[str, Callable[[], np.ndarray]]:
    assert how == How("cpu", "int8", 1)
    grey = int((folder / "grey").read_text())
    return {"a frame": lambda: np.full((2, 3, 3), grey, np.uint8)}


def theirs(folder: Path, case: str, checkout: Path) -> dict[str, Callable[[], np.ndarray]]:
    def frame() -> np.ndarray:
        if case == "broken":
            raise ValueError("no such checkout")
        time.sleep(0.05)
        return np.full((2, 3, 3), (CASES[case] + float(checkout.name)) / 255)

    return {"a frame": frame}
