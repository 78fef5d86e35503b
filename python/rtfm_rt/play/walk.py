# SPDX-License-Identifier: Apache-2.0
"""One visitor's walk through branches of a world. No network.

`steer`, `hold`, `show`, `remember` and `go_home` may be called at any time and only leave a wish.
All others, `step` among them, touch sessions: one of them at a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtfm_rt._core import ArgumentError
from rtfm_rt.play import wire
from rtfm_rt.play.ground import Pose, Stick, matrix, place_of
from rtfm_rt.play.wire import Place, Shown
from rtfm_rt.session import Model, Session

STICKS_EXPIRE = 0.5  # seconds without news after which sticks and keys count as let go
MAP_ENTRIES = 1024  # of the newest frames
BRANCHES = "ABCD"
REST = (0.0, 0.0, 0.0, 0.0)

Picture = NDArray[np.uint8]
Seen = tuple[Picture, Pose]


class Branch:
    """One future of a world: its session, where one stands in it, and what one saw there last."""

    def __init__(self, name: str, parent: str | None, session: Session, seen: Iterable[Seen] = ()):
        self.name, self.parent, self.session = name, parent, session
        self.place, self.pose = Place(), matrix(Place())
        self.latest: deque[Seen] = deque(seen, maxlen=session.context)
        self.shown: Shown | None = None

    def fork(self, name: str) -> Branch:
        branch = Branch(name, self.name, self.session.fork(), self.latest)
        branch.place, branch.pose, branch.shown = self.place, self.pose, self.shown
        return branch


class Tree(NamedTuple):
    """The branches of a walk: which one the walker is in, and (name, parent) of each."""

    here: str
    branches: tuple[tuple[str, str | None], ...]


class Walk:
    """Where the visitor is, and in which branch. What goes by poses or by actions is a subclass.

    options: keyword arguments of `Session`, the same for every session of this walk.
    """

    rate = 30.0  # frames a second at most
    buttons: list[tuple[str, str | None]] | None = (
        None  # of walks by actions: label and key of each
    )

    def __init__(self, model: Model, picture: Picture, options: dict[str, Any]) -> None:
        self._model, self._options = model, options
        self._stick: Stick = REST
        self._steered = 0.0
        self._picture: Picture | None = picture
        self._again = False  # wanted: the same frame once more
        self._number = 0
        self._branches: dict[str, Branch] = {}
        self._mapped: tuple[Session, int, int] | None = None

    # wishes

    def steer(self, stick: Stick) -> None:
        self._steered = time.monotonic()
        self._stick = stick

    def show(self, picture: Picture) -> None:
        """Starts again, at home in this picture (uint8, the model's size)."""
        self._picture = picture

    def hold(self, buttons: Collection[int]) -> None:
        """Of walks by actions: the buttons that are held down."""

    def remember(self, on: bool) -> None:
        """Of walks by poses: whether frames attend to the whole memory."""

    def go_home(self) -> None:
        """Of walks by poses: back to the first pose."""

    @property
    def wants_frame(self) -> bool:
        """Whether a step would show something new."""
        return self._picture is not None or self._again or self._moving

    # what a kind of walk says

    @property
    def _moving(self) -> bool:
        raise NotImplementedError

    def _start(self, session: Session, picture: Picture) -> Branch:
        """Observes the picture in a new session."""
        raise NotImplementedError

    def _resume(self, session: Session) -> Branch:
        """Where a session from elsewhere was left."""
        raise NotImplementedError

    def _advance(self, here: Branch, seconds: float) -> None:
        """Fulfils the wishes, moves by `seconds`, and makes the frame seen from there."""
        raise NotImplementedError

    @property
    def _remembering(self) -> tuple[bool, Session, int]:
        """Whether memory is on, the session that shows the world, and its frames in memory."""
        session = self._here.session
        return True, session, len(session.memory)

    # worlds and their branches

    @property
    def tree(self) -> Tree:
        return Tree(self._here.name, tuple((b.name, b.parent) for b in self._branches.values()))

    def keep(self) -> Session:
        """A branch to save. What a walk in it shows first is on the screen here, now or next."""
        self._settle()
        return self._here.session.fork()

    def enter(self, session: Session) -> None:
        """Goes on in a world from elsewhere, where its last frame was seen. Drops all branches."""
        branch = self._resume(session)
        self._picture = None
        self._begin(branch)

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
        self._again = branch.shown is not None

    def _begin(self, branch: Branch) -> None:
        self._branches.clear()
        self._go_to(branch)
        self._mapped = None

    def _settle(self) -> None:
        """Fulfils the wish for another picture, if there is one."""
        picture, self._picture = self._picture, None
        if picture is not None:
            self._begin(self._start(Session(self._model, **self._options), picture))

    # frames

    def step(self, seconds: float) -> bytes:
        """What to show next: `seconds` after the last one."""
        self._settle()
        here = self._here
        if not self._again or here.shown is None:
            self._advance(here, seconds)
        self._again = False
        assert here.shown is not None
        self._number += 1
        on, session, remembered = self._remembering
        flags = wire.REMEMBERING if on else 0
        flags |= wire.MOVING if self.wants_frame else 0
        entries = self._new_map(session, min(remembered, MAP_ENTRIES))
        return wire.frame_message(here.shown, self._number, remembered, flags, here.place, entries)

    def _held(self) -> Stick:
        """The stick, unless its page went to sleep with a key held down."""
        if self._stick != REST and time.monotonic() - self._steered > STICKS_EXPIRE:
            self._stick = REST
        return self._stick

    def _new_map(self, session: Session, count: int) -> list[wire.MapEntry]:
        """The newest of memory when it is another one than the page has seen, else nothing."""
        memory = session.memory
        ids = memory.ids
        state = (session, len(ids), ids[-1])
        if self._mapped == state:
            return []
        self._mapped = state
        newest = zip(ids[-count:], map(place_of, memory.poses[-count:]), strict=True)
        return [(number, place.x, place.z, place.yaw) for number, place in newest]
