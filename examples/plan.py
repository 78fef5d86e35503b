# SPDX-License-Identifier: Apache-2.0
"""A planner that tries futures before it takes one: forks to act in, imagine() to look.

    python examples/plan.py

A robot in the bundled room wants to see what it has not seen yet and still come home knowing where
it is. For each manoeuvre it branches the world, walks there, looks around without remembering, and
takes the one that ends with the most new views while each step stays well supported.
"""

from __future__ import annotations

import numpy as np

import rtfm_rt
from rtfm_rt.media import load_image
from rtfm_rt.session import bundled_file

STEPS = 6  # of a manoeuvre
SUPPORTED = 0.4  # of a view must be remembered, else the robot walks into what it invented


def moved(pose: np.ndarray, metres: float, degrees: float) -> np.ndarray:
    """Ahead along z, then turned about the vertical axis."""
    angle = np.deg2rad(degrees)
    step = np.eye(4)
    step[0, 0] = step[2, 2] = np.cos(angle)
    step[0, 2], step[2, 0] = np.sin(angle), -np.sin(angle)
    step[2, 3] = metres
    return pose @ step


def path(pose: np.ndarray, metres: float, degrees: float) -> list[np.ndarray]:
    poses = []
    for _ in range(STEPS):
        pose = moved(pose, metres / STEPS, degrees / STEPS)
        poses.append(pose)
    return poses


def value(session: rtfm_rt.Session, manoeuvre: list[np.ndarray]) -> tuple[float, float]:
    """What a manoeuvre would show that is new, and the least support on the way."""
    branch = session.fork()
    least = min(branch.step(pose).support for pose in manoeuvre)
    around = [moved(manoeuvre[-1], 0.0, yaw) for yaw in (-60, 0, 60)]
    new = sum(1 - frame.support for frame in branch.imagine(around))
    return new, least  # the branch goes, and with it all that it remembered


def main() -> None:
    session = rtfm_rt.Session("rooms")
    pose = np.eye(4)
    session.observe(load_image(bundled_file("rooms.png"), *session.image_size), pose)
    manoeuvres = {
        "ahead": (0.6, 0.0),
        "left": (0.3, -50.0),
        "right": (0.3, 50.0),
        "about": (0.0, 120.0),
    }
    for turn in range(3):
        values = {name: value(session, path(pose, *m)) for name, m in manoeuvres.items()}
        safe = {n: new for n, (new, least) in values.items() if least >= SUPPORTED}
        choice = max(safe, key=safe.__getitem__) if safe else "about"
        for name, (new, least) in values.items():
            mark = "->" if name == choice else "  "
            print(f"{turn} {mark} {name:6} new {new:4.2f}  least support {least:4.2f}")
        taken = path(pose, *manoeuvres[choice])
        for pose in taken:
            session.step(pose)
    print(f"{len(session.memory)} frames remembered, {session.memory.bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
