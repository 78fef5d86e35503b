# SPDX-License-Identifier: Apache-2.0
"""The ground that one walks on: places, their poses, and the way from one to the next."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rtfm_rt.play.wire import Place

WALK, YAW, PITCH = 0.75, 1.0, 0.4  # full stick: metres and radians a second
TILT = 0.22  # radians that one can look up or down
EDGE = 6.0  # metres from home at which the ground ends
_SAME = 1e-6  # metres and radians

Pose = NDArray[np.float64]  # camera-to-world (4, 4)
Stick = tuple[float, float, float, float]  # forward, right, yaw, pitch


def matrix(place: Place) -> Pose:
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


def place_of(pose: Pose) -> Place:
    """Where a camera is and looks, seen from above; its height and roll are left out."""
    tilt = math.asin(min(max(-float(pose[1, 2]), -1.0), 1.0))
    yaw = math.atan2(pose[0, 2], pose[2, 2])
    return Place(float(pose[0, 3]), float(pose[2, 3]), yaw, tilt)


def standing(pose: Pose) -> tuple[Place, Pose]:
    """The place of a pose, and the pose to stand there with: the very one given when it is a
    walker's, else the nearest upright one (within the ground, at eye height)."""
    x, z, yaw, tilt = place_of(pose)
    back = min(1.0, EDGE / max(math.hypot(x, z), 1e-9))
    place = Place(x * back, z * back, yaw, min(max(tilt, -TILT), TILT))
    upright = matrix(place)
    same = bool(np.allclose(upright, pose, rtol=0.0, atol=_SAME))
    return place, pose if same else upright


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


class Glide:
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
