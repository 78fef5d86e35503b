# SPDX-License-Identifier: Apache-2.0
"""A walk by actions: sticks and buttons to a model's actions. Time passes while one is held."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from rtfm_rt.play.ground import Stick, place_of
from rtfm_rt.play.walk import BRANCHES, REST, STICKS_EXPIRE, Branch, Picture, Walk
from rtfm_rt.play.wire import BUTTONS, Shown
from rtfm_rt.session import Model, Session

TURN = (6.0, 3.0)  # degrees a step of a full stick, to the right and up
PRESSED = 0.35  # of a stick, from where it presses an action that is not graded
_WAIT = ("wait", "KeyZ")  # the button that lets time pass
_KEYS = {  # on the page's keyboard, of actions by name
    "jump": "Space", "sneak": "ShiftLeft", "sprint": "KeyR", "attack": "KeyF", "use": "KeyE",
    "drop": "KeyQ", "inventory": "KeyI", "pickItem": "KeyC", "swapHands": "KeyG",
}  # fmt: skip
_VIRTUAL_KEYS = {  # label and key of those that are named by Windows' virtual-key code
    0x01: ("mouse 1", "KeyF"), 0x02: ("mouse 2", "KeyG"), 0x20: ("space", "Space"),
    0x10: ("shift", "ShiftLeft"), 0x11: ("ctrl", "KeyC"), 0x45: ("E", "KeyE"),
    0x51: ("Q", "KeyQ"), 0x52: ("R", "KeyR"),
}  # fmt: skip
_ORDER = ["Space", "KeyF", "KeyE", "KeyG", "ShiftLeft", "KeyR", "KeyQ", "KeyC", "KeyI", None]
_BY_CODE = re.compile(r"button\.(\d+)")


class Button(NamedTuple):
    """On the page: what it says, the code of its key, and the action that it takes to its most."""

    label: str
    key: str | None
    action: str | None = None
    most: float = 0.0


class Lever(NamedTuple):
    """An action that a stick moves: what it does to that axis per unit."""

    action: str
    least: float
    most: float
    effect: float


class Controls:
    """Which of a model's actions the sticks and the buttons of a page stand for.

    actions: those of the manifest. An action with moves or turns follows a stick, the others that
    start at 0 are buttons, those with a key before the others; the first button lets time pass.
    """

    def __init__(self, actions: Sequence[Mapping[str, Any]]) -> None:
        self._levers: tuple[list[Lever], ...] = ([], [], [], [])  # forward, right, yaw, pitch
        buttons = []
        for action in actions:
            name, least, most = action["name"], action["min"], action["max"]
            effects = (action["move"][2], action["move"][0], *action["turn"])
            for levers, effect in zip(self._levers, effects, strict=True):
                if effect:
                    levers.append(Lever(name, least, most, effect))
            if not any(effects) and least == 0 and (button := _button(name, most)):
                buttons.append(button)
        buttons.sort(key=lambda button: _ORDER.index(button.key))
        self.buttons = (Button(*_WAIT), *buttons[: BUTTONS - 1])

    def action(self, stick: Stick, held: Collection[int]) -> dict[str, float]:
        """For `Session.step`. held: numbers of buttons."""
        pressed = [self.buttons[i] for i in held if i < len(self.buttons)]
        values = {button.action: button.most for button in pressed if button.action}
        for levers, full, push in zip(self._levers, (None, None, *TURN), stick, strict=True):
            for lever in levers if push else ():
                value = _pushed(lever, push, full)
                if value:
                    values[lever.action] = value
                    break
        return values


def _button(name: str, most: float) -> Button | None:
    code = _BY_CODE.fullmatch(name)
    if code is None:
        return Button(name, _KEYS.get(name), name, most)
    known = _VIRTUAL_KEYS.get(int(code[1]))
    return Button(*known, name, most) if known else None


def _pushed(lever: Lever, push: float, full: float | None) -> float:
    """What a push of -1 to 1 makes of an action. full: its effect at 1, of turns."""
    if lever.least >= 0:  # pressed or not
        return lever.most if push * lever.effect > 0 and abs(push) > PRESSED else 0.0
    most = lever.most if full is None else full / abs(lever.effect)
    value = most * push if lever.effect > 0 else -most * push
    return min(max(value, lever.least), lever.most)


class ActionWalk(Walk):
    """A place by dead reckoning. A tap counts for one step, however long steps take."""

    rate = 20.0  # frames a second at most: about what such models are trained at

    def __init__(self, model: Model, picture: Picture, options: dict[str, Any]) -> None:
        super().__init__(model, picture, options)
        self._controls = Controls(model.manifest["actions"])
        self.buttons = [(button.label, button.key) for button in self._controls.buttons]
        self._held_down: frozenset[int] = frozenset()
        self._pressed = 0.0  # when buttons were heard of last
        self._pushed: Stick = REST  # anew since the last step began, as is ...
        self._touched: frozenset[int] = frozenset()

    def steer(self, stick: Stick) -> None:
        if stick != REST and (self._stick == REST or self._pushed != REST):
            self._pushed = stick
        super().steer(stick)

    def hold(self, buttons: Collection[int]) -> None:
        self._pressed = time.monotonic()
        self._touched |= frozenset(buttons) - self._held_down
        self._held_down = frozenset(buttons)

    @property
    def _moving(self) -> bool:
        return self._now() != (REST, frozenset()) or self._pushed != REST or bool(self._touched)

    def _start(self, session: Session, picture: Picture) -> Branch:
        session.observe(picture)
        return self._resume(session)

    def _resume(self, session: Session) -> Branch:
        memory = session.memory
        branch = Branch(BRANCHES[0], None, session)
        branch.place = place_of(memory.poses[-1])
        branch.shown = Shown(memory.image(memory.ids[-1])[None])
        return branch

    def _go_to(self, branch: Branch) -> None:
        super()._go_to(branch)
        self._pushed, self._touched = REST, frozenset()

    def _now(self) -> tuple[Stick, frozenset[int]]:
        """What is held, unless its page went to sleep."""
        if self._held_down and time.monotonic() - self._pressed > STICKS_EXPIRE:
            self._held_down = frozenset()
        return self._held(), self._held_down

    def _advance(self, here: Branch, seconds: float) -> None:
        stick, held = self._now()
        pushed, self._pushed = self._pushed, REST
        touched, self._touched = self._touched, frozenset()
        if stick == REST:
            stick = pushed
        frame = here.session.step(action=self._controls.action(stick, held | touched))
        here.shown, here.place = Shown.of(frame), place_of(frame.pose)
