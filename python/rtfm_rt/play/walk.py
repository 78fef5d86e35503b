# SPDX-License-Identifier: Apache-2.0
"""One visitor's walk: sticks to poses, poses to frames. No network here.

`steer`, `show`, `remember` and `go_home` come from the thread that listens and only leave a wish;
`step` runs in a worker, one at a time, and is the only one that touches the session.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtfm_rt._core import Model
from rtfm_rt.play import wire
from rtfm_rt.play.wire import Place
from rtfm_rt.session import Session

WALK, YAW, PITCH = 0.75, 1.0, 0.4  # full stick: metres and radians a second
EASE = 0.09  # seconds in which a velocity follows its stick
TILT = 0.22  # radians that one can look up or down
EDGE = 6.0  # metres from home at which the ground ends
STICKS_EXPIRE = 0.5  # seconds without news after which a stick counts as let go
MAP_ENTRIES = 1024  # of the newest frames
_EVERY_FRAME = 2.0  # commit_below: above any support
_REST = (0.0, 0.0, 0.0, 0.0)

Picture = NDArray[np.uint8]
Stick = tuple[float, float, float, float]  # forward, right, yaw, pitch


class Walk:
    """A place, its velocity, and the session (or its forgetful twin) that shows it.

    options: keyword arguments of `Session`, the same for every session of this walk.
    """

    def __init__(self, model: Model, picture: Picture, options: dict[str, Any]) -> None:
        self._model, self._options = model, options
        self._stick: Stick = _REST
        self._steered = 0.0
        self._picture: Picture | None = picture
        self._remember = True
        self._home_wanted = False
        self._number = 0
        self._twin: Session | None = None
        self._glide: _Glide | None = None
        self._velocity: Stick = _REST
        self._mapped: tuple[Session, int, int] | None = None
        self.place = Place()

    # wishes

    def steer(self, stick: Stick) -> None:
        self._steered = time.monotonic()
        self._stick = stick

    def show(self, picture: Picture) -> None:
        """Starts again, at home in this picture (uint8, the model's size)."""
        self._picture = picture

    def remember(self, on: bool) -> None:
        self._remember = on

    def go_home(self) -> None:
        self._home_wanted = True

    @property
    def wants_frame(self) -> bool:
        """Whether a step would show something new."""
        return (
            self._picture is not None
            or self._glide is not None
            or self._home_wanted
            or self._remember != (self._twin is None)
            or self._stick != _REST
            or self._velocity != _REST
        )

    # the worker

    def step(self, seconds: float) -> bytes:
        """Fulfils the wishes, moves by `seconds`, and returns the frame seen from there."""
        picture, self._picture = self._picture, None
        if picture is not None:
            self._begin(picture)
        if self._remember != (self._twin is None):
            self._twin = None if self._remember else self._forgetful_twin()
        if self._home_wanted:
            self._home_wanted = False
            self._glide = _Glide(self.place)
        self._move(seconds)

        pose = matrix(self.place)
        session = self._twin or self._session
        frame = session.step(pose)
        self._latest.append((np.array(frame), pose))
        self._number += 1
        flags = wire.REMEMBERING if self._twin is None else 0
        flags |= wire.GLIDING if self._glide is not None else 0
        remembered = len(session.memory)
        if self._twin is not None:  # the older ones are there, but it never looks back
            remembered = min(remembered, session.context)
        entries = self._new_map(session, min(remembered, MAP_ENTRIES))
        return wire.frame_message(frame, self._number, remembered, flags, self.place, entries)

    def _begin(self, picture: Picture) -> None:
        self._session = Session(self._model, **self._options)
        self._session.observe(picture, matrix(Place()))
        self._page_bytes = self._session.memory.bytes
        self._latest = deque([(picture, matrix(Place()))], maxlen=self._session.context)
        self._twin = self._glide = self._mapped = None
        self.place, self._velocity = Place(), _REST

    def _forgetful_twin(self) -> Session:
        """Attends to the latest frames only, as a model without a spatial memory does; it has seen
        what the visitor saw last."""
        context = self._session.context
        recent_only = {
            "context": context,
            "commit_below": _EVERY_FRAME,
            "sinks": 0,
            "recent": context,
            "memory_budget": 2 * (context + 1) * self._page_bytes,
        }
        twin = Session(self._model, **{**self._options, **recent_only})
        for picture, pose in self._latest:
            twin.observe(picture, pose)
        return twin

    def _move(self, seconds: float) -> None:
        stick = self._stick
        if stick != _REST and time.monotonic() - self._steered > STICKS_EXPIRE:
            stick = self._stick = _REST  # its page went to sleep with a key held down
        if self._glide is not None and stick == _REST:
            self.place, self._velocity = self._glide.after(seconds), _REST
            if self.place == Place():
                self._glide = None
            return
        self._glide = None
        near = 1.0 - math.exp(-seconds / EASE)
        velocity = tuple(v + (s - v) * near for v, s in zip(self._velocity, stick, strict=True))
        if stick == _REST and max(map(abs, velocity)) < 0.01:
            velocity = _REST
        self._velocity = velocity  # type: ignore[assignment]
        self.place = moved(self.place, self._velocity, seconds)

    def _new_map(self, session: Session, count: int) -> list[wire.MapEntry]:
        """The newest of memory when it is another one than the page has seen, else nothing."""
        memory = session.memory
        ids = memory.ids
        state = (session, len(ids), ids[-1])
        if self._mapped == state:
            return []
        self._mapped = state
        newest = zip(ids[-count:], memory.poses[-count:], strict=True)
        return [(number, p[0, 3], p[2, 3], math.atan2(p[0, 2], p[2, 2])) for number, p in newest]


def matrix(place: Place) -> NDArray[np.float64]:
    """Camera-to-world (4, 4) of a place: y down, so looking up turns z towards -y."""
    c, s = math.cos(place.yaw), math.sin(place.yaw)
    cp, sp = math.cos(place.pitch), math.sin(place.pitch)
    return np.array(
        [
            [c, s * sp, s * cp, place.x],
            [0.0, cp, -sp, 0.0],
            [-s, c * sp, c * cp, place.z],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def moved(place: Place, velocity: Stick, seconds: float) -> Place:
    """The place after `seconds` at a velocity (full stick = 1), forward being where one looks."""
    forward, right, yaw, pitch = velocity
    turned = math.remainder(place.yaw + YAW * yaw * seconds, 2 * math.pi)
    tilt = min(max(place.pitch + PITCH * pitch * seconds, -TILT), TILT)
    c, s = math.cos(turned), math.sin(turned)
    length = WALK * seconds / max(1.0, math.hypot(forward, right))
    x = place.x + (s * forward + c * right) * length
    z = place.z + (c * forward - s * right) * length
    back = min(1.0, EDGE / max(math.hypot(x, z), 1e-9))
    return Place(x * back, z * back, turned, tilt)


class _Glide:
    """The way home from a place: straight, the short way round, slow at both ends."""

    def __init__(self, start: Place) -> None:
        self._start, self._gone = start, 0.0
        turn = max(abs(start.yaw) / YAW, abs(start.pitch) / PITCH)
        self._whole = 0.6 + max(math.hypot(start.x, start.z) / WALK, turn)

    def after(self, seconds: float) -> Place:
        self._gone += seconds
        if self._gone >= self._whole:
            return Place()
        left = 0.5 + 0.5 * math.cos(math.pi * self._gone / self._whole)
        return Place(*(value * left for value in self._start))
