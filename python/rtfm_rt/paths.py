# SPDX-License-Identifier: Apache-2.0
"""Camera paths to walk: made from a start pose, or read from a trajectory file.

Turns are in degrees, to the right when positive, about the start camera's vertical axis; distances
are in metres. Every path begins with its start pose exactly.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from rtfm_rt._core import ArgumentError, PoseError
from rtfm_rt.pose import Pose

_IDENTITY = Pose(np.eye(4))


def there_and_back(
    frames: int, distance: float = 0.8, turn: float = 45.0, start: Pose = _IDENTITY
) -> list[Pose]:
    """Walks `distance` forward while turning by `turn`, then the same way back.

    Symmetric, and exactly so: pose i equals pose frames - 1 - i, the last equals the first.
    """
    poses = []
    for i in range(_count(frames)):
        along = _eased(min(i, frames - 1 - i), (frames - 1) // 2)
        poses.append(_moved(start, turn * along, (0.0, 0.0, distance * along)))
    return poses


def orbit(
    frames: int, turn: float = 360.0, radius: float = 0.1, start: Pose = _IDENTITY
) -> list[Pose]:
    """Turns by `turn` on the spot, the camera looking outwards from a small circle of `radius`, as
    a head turns on its neck. A full turn ends exactly where it began."""
    poses = []
    for i in range(_count(frames)):
        yaw = math.remainder(turn * i / max(frames - 1, 1), 360.0)
        a = math.radians(yaw)
        poses.append(_moved(start, yaw, (radius * math.sin(a), 0.0, radius * (math.cos(a) - 1.0))))
    return poses


def look_around(frames: int, turn: float = 40.0, start: Pose = _IDENTITY) -> list[Pose]:
    """Stands still and looks right by `turn`, left by `turn`, and ahead again, exactly."""
    poses = []
    for i in range(_count(frames)):
        nearer = min(i, frames - 1 - i)
        yaw = turn * math.sin(2.0 * math.pi * nearer / max(frames - 1, 1))
        poses.append(_moved(start, yaw if nearer == i else -yaw, (0.0, 0.0, 0.0)))
    return poses


def load_trajectory(path: str | os.PathLike[str], start: Pose | None = None) -> list[Pose]:
    """Reads a trajectory file; with `start`, carries it over so that it begins there.

    JSON: a list of 4x4 camera-to-world matrices (OpenCV axes), or
    {"poses": [...], "convention": "opengl", "direction": "camera_to_world"} as in
    `Pose.from_matrix`. Anything else is TUM text, one `timestamp tx ty tz qx qy qz qw` a line,
    camera-to-world with OpenCV axes; `#` begins a comment and timestamps are not used.
    An unreadable file is an `ArgumentError`, a bad pose a `PoseError`, both with the line or index.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ArgumentError(
            f"{name}: expected a trajectory file (JSON or TUM text), got: {reason}"
        ) from None
    poses = (_from_json if text.lstrip()[:1] in ("[", "{") else _from_tum)(name, text)
    if not poses:
        raise ArgumentError(f"{name}: expected at least one pose, got none")
    if start is None:
        return poses
    carry = start @ poses[0].inverse()
    return [start, *(carry @ pose for pose in poses[1:])]


def _from_json(name: str, text: str) -> list[Pose]:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArgumentError(f"{name}:{error.lineno}: expected JSON, got: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{name}: expected JSON, got: {error}") from None
    options: dict[str, Any] = content if isinstance(content, dict) else {"poses": content}
    unknown = sorted(set(options) - {"poses", "convention", "direction"})
    if unknown or not isinstance(options.get("poses"), list):
        got = f"the key {unknown[0]!r}" if unknown else "no list of poses"
        raise ArgumentError(
            f'{name}: expected {{"poses": [...], "convention": ..., "direction": ...}}, got {got}'
        )
    convention = options.get("convention", "opencv")
    direction = options.get("direction", "camera_to_world")
    poses = []
    for i, matrix in enumerate(options["poses"]):
        try:
            poses.append(Pose.from_matrix(matrix, str(convention), str(direction)))
        except PoseError as error:
            raise PoseError(f"{name}: pose {i}: {error}") from None
    return poses


def _from_tum(name: str, text: str) -> list[Pose]:
    poses = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = []
        if len(values) != 8:
            shown = line if len(line) <= 40 else line[:37] + "..."
            raise ArgumentError(
                f"{name}:{number}: expected timestamp tx ty tz qx qy qz qw, got {shown!r}"
            )
        try:
            poses.append(Pose.from_quaternion(values[1:4], values[4:8]))
        except PoseError as error:
            raise PoseError(f"{name}:{number}: {error}") from None
    return poses


def _count(frames: int) -> int:
    if not isinstance(frames, int) or frames < 1:
        raise ArgumentError(f"frames: expected a whole number >= 1, got {frames!r}")
    return frames


def _eased(step: int, steps: int) -> float:
    """0 to 1 over `steps`, slow at both ends, so that a camera starts and stops gently."""
    return 0.5 - 0.5 * math.cos(math.pi * step / steps) if steps else 0.0


def _moved(start: Pose, yaw: float, offset: tuple[float, float, float]) -> Pose:
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    x, y, z = offset
    moved: Pose = start @ Pose(np.array([[c, 0, s, x], [0, 1, 0, y], [-s, 0, c, z], [0, 0, 0, 1]]))
    return moved
