# SPDX-License-Identifier: Apache-2.0
"""One visitor's walk: sticks to poses, poses to frames, through branches of a world. No network.

`steer`, `show`, `remember` and `go_home` may be called at any time and only leave a wish. All
others, `step` among them, touch sessions: one of them at a time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtfm_rt._core import ArgumentError, Frame, Model
from rtfm_rt.play import wire
from rtfm_rt.play.ground import Glide, Pose, Stick, matrix, moved, standing
from rtfm_rt.play.wire import Place
from rtfm_rt.session import Session

EASE = 0.09  # seconds in which a velocity follows its stick
STICKS_EXPIRE = 0.5  # seconds without news after which a stick counts as let go
MAP_ENTRIES = 1024  # of the newest frames
BRANCHES = "ABCD"
_EVERY_FRAME = 2.0  # commit_below: above any support
_REST = (0.0, 0.0, 0.0, 0.0)

Picture = NDArray[np.uint8]
Seen = tuple[Picture, Pose]


class Branch:
    """One future of a world: its session, where one stands in it, and what one saw there last."""

    def __init__(self, name: str, parent: str | None, session: Session, seen: Iterable[Seen]):
        self.name, self.parent, self.session = name, parent, session
        self.place, self.pose = Place(), matrix(Place())
        self.latest: deque[Seen] = deque(seen, maxlen=session.context)
        self.frame: Frame | None = None

    def fork(self, name: str) -> Branch:
        branch = Branch(name, self.name, self.session.fork(), self.latest)
        branch.place, branch.pose, branch.frame = self.place, self.pose, self.frame
        return branch


class Tree(NamedTuple):
    """The branches of a walk: which one the walker is in, and (name, parent) of each."""

    here: str
    branches: tuple[tuple[str, str | None], ...]


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
        self._again = self._still = False  # wanted: the same frame once more; one from right here
        self._number = 0
        self._branches: dict[str, Branch] = {}
        self._twin: Session | None = None
        self._glide: Glide | None = None
        self._velocity: Stick = _REST
        self._mapped: tuple[Session, int, int] | None = None

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
            or self._again
            or self._still
            or self._remember != (self._twin is None)
            or self._stick != _REST
            or self._velocity != _REST
        )

    # worlds and their branches

    @property
    def tree(self) -> Tree:
        return Tree(self._here.name, tuple((b.name, b.parent) for b in self._branches.values()))

    def keep(self) -> Session:
        """A branch to save. The next frame is made from right here: it is the one that the saved
        world begins with when it is loaded."""
        self._settle()
        self._still = True
        return self._here.session.fork()

    def enter(self, session: Session) -> None:
        """Goes on in a world from elsewhere, where its last frame was seen. Drops all branches."""
        memory = session.memory
        newest = memory.ids[-session.context :]
        poses = memory.poses[len(memory) - len(newest) :]
        seen = [(memory.image(id_), pose) for id_, pose in zip(newest, poses, strict=True)]
        branch = Branch(BRANCHES[0], None, session, seen)
        last = session._world()["last_pose"]
        if last is not None:
            branch.place, branch.pose = standing(last)
        self._picture = None
        self._begin(branch)
        self._still = True

    def branch(self) -> None:
        """Leaves the world here as it is and goes on in a branch of it."""
        self._settle()
        free = [name for name in BRANCHES if name not in self._branches]
        if not free:
            raise ArgumentError(f"{len(BRANCHES)} branches are the most. Drop one first.")
        self._go_to(self._here.fork(free[0]))

    def switch(self, name: str) -> None:
        """Goes on in another branch, from where it was left."""
        self._settle()
        if name not in self._branches:
            raise ArgumentError("There is no such branch.")
        self._go_to(self._branches[name])

    def drop(self, name: str) -> None:
        """Forgets a branch; who is in it goes back to where it was taken from."""
        self._settle()
        if name not in self._branches or len(self._branches) == 1:
            raise ArgumentError("There is no branch to drop: the only one is the world.")
        gone = self._branches.pop(name)
        for branch in self._branches.values():
            if branch.parent == name:
                branch.parent = gone.parent
        if gone is self._here:
            first = next(iter(self._branches))
            self._go_to(self._branches[gone.parent or first])
        self._again = True

    def _go_to(self, branch: Branch) -> None:
        self._branches[branch.name] = self._here = branch
        self._twin = self._glide = None
        self._velocity = _REST
        self._again, self._still = branch.frame is not None, False

    def _begin(self, branch: Branch) -> None:
        self._branches.clear()
        self._go_to(branch)
        self._mapped = None

    def _settle(self) -> None:
        """Fulfils the wish for another picture, if there is one."""
        picture, self._picture = self._picture, None
        if picture is not None:
            session = Session(self._model, **self._options)
            session.observe(picture, matrix(Place()))
            self._begin(Branch(BRANCHES[0], None, session, [(picture, matrix(Place()))]))

    # frames

    def step(self, seconds: float) -> bytes:
        """Fulfils the wishes, moves by `seconds`, and returns the frame seen from there."""
        self._settle()
        here = self._here
        if not self._again or here.frame is None:
            self._make_frame(here, seconds)
        self._again = False
        assert here.frame is not None
        self._number += 1
        flags = wire.REMEMBERING if self._remember else 0
        flags |= wire.MOVING if self.wants_frame else 0
        session = self._twin or here.session
        remembered = len(session.memory)
        if self._twin is not None:  # the older ones are there, but it never looks back
            remembered = min(remembered, session.context)
        entries = self._new_map(session, min(remembered, MAP_ENTRIES))
        return wire.frame_message(here.frame, self._number, remembered, flags, here.place, entries)

    def _make_frame(self, here: Branch, seconds: float) -> None:
        if self._remember != (self._twin is None):
            self._twin = None if self._remember else self._forgetful_twin()
        if self._home_wanted:
            self._home_wanted = False
            self._glide = Glide(here.place)
        still, self._still = self._still, False
        place = here.place if still else self._moved(here.place, seconds)
        if place != here.place:
            here.place, here.pose = place, matrix(place)
        here.frame = (self._twin or here.session).step(here.pose)
        here.latest.append((np.array(here.frame), here.pose))

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
        stick = self._stick
        if stick != _REST and time.monotonic() - self._steered > STICKS_EXPIRE:
            stick = self._stick = _REST  # its page went to sleep with a key held down
        if self._glide is not None and stick == _REST:
            self._velocity = _REST
            place = self._glide.after(seconds)
            if place == Place():
                self._glide = None
            return place
        self._glide = None
        near = 1.0 - math.exp(-seconds / EASE)
        velocity = tuple(v + (s - v) * near for v, s in zip(self._velocity, stick, strict=True))
        if stick == _REST and max(map(abs, velocity)) < 0.01:
            velocity = _REST
        self._velocity = velocity  # type: ignore[assignment]
        return moved(place, self._velocity, seconds)

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
