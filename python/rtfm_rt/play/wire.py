# SPDX-License-Identifier: Apache-2.0
"""What the page and the server say to each other over the WebSocket. This is the only description.

Page to server: JSON text of at most 4 KiB, an object with one of the keys
    "stick": [forward, right, yaw, pitch]   each from -1 to 1, at most 60 a second while not at rest
    "held": [number, ...]                   buttons of hello that are held down, as often
    "ack": number                           the newest frame that was drawn
    "picture": name                         start again in this picture
    "remember": true or false               attend to the whole memory, or to recent frames only
    "home": true                            glide back to the first pose
    "save": true                            save the world; what it begins with when it is loaded is
                                            on the screen, or the frame that follows
    "load": name                            go on in a saved world, where it was left
    "branch": true                          leave the world as it is, go on in a branch of it
    "switch": "A"                           go on in that branch, where it was left
    "drop": "A"                             forget that branch; from inside: back to where it began

Server to page: JSON text or binary frames. A frame comes when there is something new to see, and
never more than `CREDIT` of them are ahead of the last "ack". Text is an object with
    "hello": id, and more                   once: what there is, for the buttons; "buttons":
                                            [[label, key or null], ...] of models that go by actions
    "here": "B", "branches": [[name, parent or null], ...]    before a frame, when they changed
    "saved": name, "frames": number         when the world is on the disk
    "loaded": name, "frames": number        when the walk goes on in it
    "notice": text                          something was refused; the walk goes on as it was
    "error": text                           before closing
and a frame is, little-endian, aligned to 4 bytes,
    0   u8 flags    1 remembered for good, 2 late, 4 remember is on, 8 more to come, 16 map follows
    1   u8 steps, 0 of a picture       2   u8 contexts    3   u8 images
    4   u16 width   6   u16 height
    8   u32 number of the frame, from 1        12  u32 frames in memory      16  u32 map entries
    20  f32 latency in ms                      24  f32 support, 0 to 1
    28  f32 x, z in metres; yaw (to the right), pitch (up) in radians
    44  contexts times u32: the ids of the frames attended to
    ..  map entries times (u32 id, f32 x, f32 z, f32 yaw): all of memory, sent when it changed
    ..  images times height * width * 3 bytes RGB, to be shown one after the other
Pixels are sent raw: 64x64 are 12 KB, PNG makes 4 KB of them for 1.4 ms on either side.

By HTTP, all with "token" in the query and POST with "visitor" (the id of hello) too:
    GET /pictures/NAME    a picture, PNG           POST /pictures    walk in this picture
    GET /worlds           the list: name, bytes, saved (seconds since 1970)
    GET /worlds/NAME      a world file             POST /worlds      go on in this world file
What is refused is answered with {"error": text}.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtfm_rt._core import ArgumentError, Frame

MESSAGE_BYTES = 4096
CREDIT = 2
BUTTONS = 32  # at most
COMMITTED, LATE, REMEMBERING, MOVING, MAPPED = 1, 2, 4, 8, 16

_ORDERS = ("home", "save", "branch")
_KINDS = {
    **dict.fromkeys(("picture", "load", "switch", "drop"), str),
    **dict.fromkeys(("remember", *_ORDERS), bool),
    "ack": int,
}
_HEADER = struct.Struct("<4B2H3I2f4f")
_ENTRY = struct.Struct("<I3f")

MapEntry = tuple[int, float, float, float]  # id, x, z, yaw


class Place(NamedTuple):
    """Where the walker stands: metres in the ground plane, radians; the eye height is fixed."""

    x: float = 0.0
    z: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0


class Shown(NamedTuple):
    """What is on the screen, (n, height, width, 3) one after the other, and its receipt."""

    images: NDArray[np.uint8]
    latency: float = 0.0
    steps: int = 0
    context: Sequence[int] = ()
    support: float = 0.0
    committed: bool = True
    late: bool = False

    @classmethod
    def of(cls, frame: Frame) -> Shown:
        receipt = frame.latency, frame.steps, frame.context, frame.support
        return cls(frame.images, *receipt, frame.committed, frame.late)


def parse(text: str) -> tuple[str, Any]:
    """The key and the checked value of a message from the page; ArgumentError for anything else."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or len(message) != 1:
        raise ArgumentError("message: expected a JSON object with one key")
    ((key, value),) = message.items()
    if key == "stick":
        if isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)):
            return key, tuple(min(max(float(v), -1.0), 1.0) for v in value)
        raise ArgumentError("stick: expected four numbers from -1 to 1")
    if key == "held":
        if isinstance(value, list) and len(value) <= BUTTONS and all(map(_is_button, value)):
            return key, frozenset(value)
        raise ArgumentError(f"held: expected at most {BUTTONS} numbers of buttons")
    if type(value) is not _KINDS.get(key) or (key in _ORDERS and not value):
        raise ArgumentError(f"message: expected stick, held, {', '.join(_KINDS)} with their values")
    return key, value


def frame_message(
    shown: Shown,
    number: int,
    remembered: int,
    flags: int,
    place: Place,
    entries: Sequence[MapEntry],
) -> bytes:
    """One frame with its receipt, laid out as above. entries: of the map, none when it stayed."""
    images, height, width, _ = shown.images.shape
    context = shown.context[:255]
    flags |= (COMMITTED if shown.committed else 0) | (LATE if shown.late else 0)
    return b"".join(
        (
            _HEADER.pack(
                *(flags | (MAPPED if entries else 0), min(shown.steps, 255), len(context), images),
                *(width, height),
                *(number, remembered, len(entries)),
                *(shown.latency * 1e3, shown.support),
                *place,
            ),
            struct.pack(f"<{len(context)}I", *context),
            *(_ENTRY.pack(*entry) for entry in entries),
            np.ascontiguousarray(shown.images).data,
        )
    )


def _is_button(value: Any) -> bool:
    return type(value) is int and 0 <= value < BUTTONS


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)
