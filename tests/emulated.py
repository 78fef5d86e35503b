# SPDX-License-Identifier: Apache-2.0
"""Sessions on the emulated CUDA device: the part of rtfm_rt.Session that its tests use."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from rtfm_rt import _testing


@dataclass
class Frame:
    """A receipt and its pixels, as rtfm_rt.Frame."""

    pixels: np.ndarray
    id: int
    steps: int
    context: list[int]
    committed: bool

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.pixels, dtype)


class Session:
    """_testing.Session with the names of rtfm_rt.Session."""

    def __init__(self, path: str, *, device: str, threads: int | None = None, **options: Any):
        self._session = _testing.Session(path, device=device, threads=threads or 0, **options)

    def fork(self) -> Session:
        branch = Session.__new__(Session)
        branch._session = self._session.fork()
        return branch

    @property
    def precision(self) -> str:
        return self._session.precision

    def observe(self, image: np.ndarray, pose: np.ndarray) -> int:
        return self._session.observe(image, pose)

    def step(self, pose: np.ndarray) -> Frame:
        return Frame(**self._session.step(pose))

    def imagine(self, poses: list[np.ndarray]) -> list[Frame]:
        return [Frame(**self._session.imagine(pose)) for pose in poses]

    @property
    def memory(self) -> SimpleNamespace:
        return SimpleNamespace(ids=self._session.ids)
