# SPDX-License-Identifier: Apache-2.0
"""Plays the lines of tests/embedded.cc on the Python API: what each of them prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt


def text(values: Any) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(values, np.float64).ravel() + 0.0)


def matrix(words: list[str]) -> np.ndarray:
    return np.array(words, np.float64).reshape(4, 4)


def mapping(words: list[str]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def options(words: list[str]) -> dict[str, Any]:
    exact = {"commit_below", "deadline"}
    return {name: value if name in exact else int(value) for name, value in mapping(words).items()}


def shown(frame: rtfm_rt.Frame) -> list[str]:
    height, width, _ = frame.shape
    receipt = f"{frame.id} {frame.steps} {frame.support:.17g} {frame.late:d} {frame.committed:d}"
    context = "".join(f" {id_}" for id_ in frame.context)
    return [
        f"{receipt} {width}x{height} {len(frame.images)} context{context}",
        text(frame.pose),
        *(image.tobytes().hex() for image in frame.images),
    ]


class Player:
    def __init__(self) -> None:
        self.sessions: list[rtfm_rt.Session] = []

    def made(self, session: rtfm_rt.Session) -> list[str]:
        self.sessions = [session]
        return [f"{session.threads} {session.steps} {session.context}"]

    def image(self, path: str) -> np.ndarray:
        height, width = self.sessions[-1].image_size
        raw = np.frombuffer(Path(path).read_bytes(), np.uint8)
        return raw.reshape(height, width, 3) if raw.size == height * width * 3 else raw

    def show(self, frame: rtfm_rt.Frame) -> list[str]:
        self.frame = frame
        return shown(frame)

    def play(self, line: str) -> list[str]:
        call, *words = line.split()
        try:
            return getattr(self, call)(*words) or []
        except rtfm_rt.Error as error:
            return [f"{type(error).__name__}: {error}"]

    def model(self, path: str, device: str, precision: str) -> list[str]:
        self.sessions = []
        self._model = made = rtfm_rt.Model(path, device, precision)
        said = made.manifest
        size = said["image"]
        actions = said.get("actions", ())
        return [
            f"{said['name']} {said['licence']} {size['width']}x{size['height']} "
            f"{made.parameters} {made.device} {made.precision}",
            text([said["camera"]["fx"], said["camera"]["fy"]]),
            *(f"{a['name']} {text([a['min'], a['max']])}" for a in actions),
        ]

    def sum(self) -> list[str]:
        return [self._model.sha256]

    def session(self, *words: str) -> list[str]:
        return self.made(rtfm_rt.Session(self._model, **options(list(words))))

    def fork(self) -> None:
        self.sessions.append(self.sessions[-1].fork())

    def back(self) -> None:
        self.sessions.pop()

    def save(self, path: str) -> None:
        self.sessions[-1].save(path)

    def load(self, path: str, *words: str) -> list[str]:
        return self.made(rtfm_rt.Session.load(path, self._model, **options(list(words))))

    def observe(self, path: str, *pose: str) -> list[str]:
        return [f"{self.sessions[-1].observe(self.image(path), matrix(list(pose)))}"]

    def step(self, *pose: str) -> list[str]:
        return self.show(self.sessions[-1].step(matrix(list(pose))))

    def slot(self, *pose: str) -> list[str]:
        slot = rtfm_rt.PoseSlot(np.eye(4))
        slot.write(matrix(list(pose)))
        return self.show(self.sessions[-1].step(slot))

    def steady(self, *pose: str) -> list[str]:
        for _ in range(20):
            self.sessions[-1].step(matrix(list(pose)))
        return ["0"]

    def zoom(self, fx: str, fy: str, *pose: str) -> list[str]:
        wide = float(fx), float(fy)
        made = self.sessions[-1].step(matrix(list(pose)), intrinsics=wide, deadline=1e-9)
        return self.show(made)

    def imagine(self, *pose: str) -> list[str]:
        return self.show(self.sessions[-1].imagine([matrix(list(pose))])[0])

    def observe_act(self, path: str, *words: str) -> list[str]:
        action = mapping(list(words))
        return [f"{self.sessions[-1].observe(self.image(path), action=action)}"]

    def act(self, *words: str) -> list[str]:
        return self.show(self.sessions[-1].step(action=mapping(list(words))))

    def imagine_act(self, *words: str) -> list[str]:
        return self.show(self.sessions[-1].imagine(actions=[mapping(list(words))])[0])

    def reproject(self, *pose: str) -> list[str]:
        turned = self.frame.reproject(matrix(list(pose)))
        return self.show(turned)

    def memory(self, *pose: str) -> list[str]:
        memory, stats, place = (
            self.sessions[-1].memory,
            self.sessions[-1].stats(),
            matrix(list(pose)),
        )
        counts = len(memory), memory.bytes, memory.budget, memory.evicted, memory.resident
        lists = [counts, memory.ids, memory.nearest(place, 3)]
        lines = ["".join(f"{n} " for n in numbers) for numbers in lists]
        lines.append(text([memory.coverage(place)]))
        return [*lines, "".join(f"{stats[key]} " for key in ("frames", "late", "committed"))]

    def remembered(self, number: str) -> list[str]:
        memory, id_ = self.sessions[-1].memory, int(number)
        image = memory.image(id_)
        return [text(memory.poses[memory.ids.index(id_)]), image.tobytes().hex()]

    def move(self, number: str, *pose: str) -> None:
        self.sessions[-1].memory.update_pose(int(number), matrix(list(pose)))


def play(lines: list[str]) -> list[list[str]]:
    """What each line prints."""
    player = Player()
    return [player.play(line) for line in lines]
