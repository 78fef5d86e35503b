# SPDX-License-Identifier: Apache-2.0
"""Sessions on the emulated CUDA device: the part of rtfm_rt.Session that its tests use."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

import rtfm_rt
from rtfm_rt import _testing

# device names that mean this machine's CPU
CPU_NAMES = ("cpu",) if rtfm_rt._core.cuda_devices() else ("cpu", "auto")


@dataclass
class Frame:
    """A receipt and its pixels, as rtfm_rt.Frame."""

    images: np.ndarray
    id: int
    steps: int
    pose: np.ndarray
    context: list[int]
    committed: bool

    @property
    def pixels(self) -> np.ndarray:
        return self.images[-1]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.pixels, dtype)


class Session:
    """_testing.Session with the names of rtfm_rt.Session."""

    def __init__(self, path: str, *, device: str, threads: int | None = None, **options: Any):
        self._session = _testing.Session(path, device=device, threads=threads, **options)
        actions = rtfm_rt.read_info(path)["manifest"].get("actions", [])
        self._names = [action["name"] for action in actions]

    def _values(self, action: Any) -> np.ndarray:
        """float32 values of an action: as they are, or by name."""
        if action is None:
            action = {}
        if isinstance(action, dict):
            action = [action.get(name, 0) for name in self._names]
        return np.asarray(action, np.float32)

    def fork(self) -> Session:
        return self._with(self._session.fork())

    def reloaded(self) -> Session:
        """A session that takes over the world of this one, as from a file."""
        return self._with(self._session.reloaded())

    def _with(self, session: Any) -> Session:
        other = Session.__new__(Session)
        other._session, other._names = session, self._names
        return other

    @property
    def precision(self) -> str:
        return self._session.precision

    def observe(self, image: np.ndarray, pose: Any = None, *, action: Any = None) -> int:
        if self._names:
            return self._session.observe_next(image, self._values(action))
        return self._session.observe(image, pose)

    def step(self, pose: Any = None, *, action: Any = None) -> Frame:
        if self._names:
            return Frame(**self._session.act(self._values(action)))
        return Frame(**self._session.step(pose))

    def imagine(self, poses: Any = None, *, actions: Any = None) -> list[Frame]:
        if self._names:
            return [Frame(**self._session.imagine_act(self._values(a))) for a in actions]
        return [Frame(**self._session.imagine(pose)) for pose in poses]

    def step_frame(self, pose: np.ndarray) -> rtfm_rt.Frame:
        return self._session.step_frame(pose)

    @property
    def memory(self) -> SimpleNamespace:
        poses = np.reshape(self._session.poses, (-1, 4, 4))
        return SimpleNamespace(ids=self._session.ids, poses=poses)
