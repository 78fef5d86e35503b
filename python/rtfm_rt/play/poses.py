# SPDX-License-Identifier: Apache-2.0
"""A walk by poses: sticks to places, with a way home and a twin that forgets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rtfm_rt.play.ground import Glide, Stick, matrix, moved, standing
from rtfm_rt.play.walk import BRANCHES, REST, Branch, Picture, Walk
from rtfm_rt.play.wire import Place, Shown
from rtfm_rt.session import Model, Session

EASE = 0.09  # seconds in which a velocity follows its stick
_EVERY_FRAME = 2.0  # commit_below: above any support


class PoseWalk(Walk):
    """A place, its velocity, and the session (or its forgetful twin) that shows it."""

    def __init__(self, model: Model, picture: Picture, options: dict[str, Any]) -> None:
        super().__init__(model, picture, options)
        self._remember = True
        self._home_wanted = False
        self._still = False  # wanted: a frame from right here
        self._twin: Session | None = None
        self._glide: Glide | None = None
        self._velocity: Stick = REST

    def remember(self, on: bool) -> None:
        self._remember = on

    def go_home(self) -> None:
        self._home_wanted = True

    @property
    def _moving(self) -> bool:
        return (
            self._glide is not None
            or self._home_wanted
            or self._still
            or self._remember != (self._twin is None)
            or self._stick != REST
            or self._velocity != REST
        )

    def keep(self) -> Session:
        session = super().keep()
        self._still = True  # the frame that the saved world begins with when it is loaded
        return session

    def enter(self, session: Session) -> None:
        super().enter(session)
        self._still = True

    def _start(self, session: Session, picture: Picture) -> Branch:
        session.observe(picture, matrix(Place()))
        return Branch(BRANCHES[0], None, session, [(picture, matrix(Place()))])

    def _resume(self, session: Session) -> Branch:
        memory = session.memory
        newest = memory.ids[-session.context :]
        poses = memory.poses[len(memory) - len(newest) :]
        seen = [(memory.image(id_), pose) for id_, pose in zip(newest, poses, strict=True)]
        branch = Branch(BRANCHES[0], None, session, seen)
        last = session._world()["last_pose"]
        if last is not None:
            branch.place, branch.pose = standing(last)
        return branch

    def _go_to(self, branch: Branch) -> None:
        super()._go_to(branch)
        self._twin = self._glide = None
        self._velocity = REST
        self._still = False

    @property
    def _remembering(self) -> tuple[bool, Session, int]:
        session = self._twin or self._here.session
        remembered = len(session.memory)
        if self._twin is not None:  # the older ones are there, but it never looks back
            remembered = min(remembered, session.context)
        return self._remember, session, remembered

    def _advance(self, here: Branch, seconds: float) -> None:
        if self._remember != (self._twin is None):
            self._twin = None if self._remember else self._forgetful_twin()
        if self._home_wanted:
            self._home_wanted = False
            self._glide = Glide(here.place)
        still, self._still = self._still, False
        place = here.place if still else self._moved(here.place, seconds)
        if place != here.place:
            here.place, here.pose = place, matrix(place)
        frame = (self._twin or here.session).step(here.pose)
        here.shown = Shown.of(frame)
        here.latest.append((np.array(frame), here.pose))

    def _forgetful_twin(self) -> Session:
        """Attends to the latest frames only, as a model without a spatial memory does; it has seen
        what the visitor saw last."""
        here = self._here
        probe = Session(self._model, **self._options)
        probe.observe(*here.latest[-1])
        context = here.session.context
        recent_only = {
            "context": context,
            "steps": here.session.steps,
            "commit_below": _EVERY_FRAME,
            "sinks": 0,
            "recent": context,
            "memory_budget": 2 * (context + 1) * probe.memory.bytes,
        }
        twin = Session(self._model, **{**self._options, **recent_only})
        for picture, pose in here.latest:
            twin.observe(picture, pose)
        return twin

    def _moved(self, place: Place, seconds: float) -> Place:
        stick = self._held()
        if self._glide is not None and stick == REST:
            self._velocity = REST
            place = self._glide.after(seconds)
            if place == Place():
                self._glide = None
            return place
        self._glide = None
        near = 1.0 - math.exp(-seconds / EASE)
        velocity = tuple(v + (s - v) * near for v, s in zip(self._velocity, stick, strict=True))
        if stick == REST and max(map(abs, velocity)) < 0.01:
            velocity = REST
        self._velocity = velocity  # type: ignore[assignment]
        return moved(place, self._velocity, seconds)
