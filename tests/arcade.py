# SPDX-License-Identifier: Apache-2.0
"""A FRAMEBOY server with the tiny model, and the client side of a page, for the tests of both."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import ClientConnection, connect

import rtfm_rt
from rtfm_rt.play import pictures, server

CONTEXT = 3
FORWARD, LOOK_RIGHT, REST = [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]


class Site(NamedTuple):
    arcade: server.Arcade
    host: str  # with its port
    query: str
    folder: Path  # of saved worlds

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        client = http.client.HTTPConnection(self.host, timeout=10)
        try:
            client.request(method, path, body, headers)
            answer = client.getresponse()
            return answer.status, answer.read().decode("latin-1"), answer.headers
        finally:
            client.close()

    def upload(
        self, page: Page, body: bytes, to: str = "pictures", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        path = f"/{to}?{self.query}&visitor={page.hello['hello']}"
        sent = {"Origin": f"http://{self.host}", **headers}
        status, text, _ = self.ask("POST", path, body, **sent)
        return status, json.loads(text)


class Shown(NamedTuple):
    """A frame as play/wire.py lays it out."""

    flags: int
    number: int
    remembered: int
    support: float
    place: tuple[float, ...]
    context: tuple[int, ...]
    entries: list[tuple[int, float, float, float]]
    pixels: bytes  # of all images
    shape: tuple[int, int, int]  # images, height, width
    steps: int

    @classmethod
    def parse(cls, data: bytes) -> Shown:
        flags, steps, contexts, images, width, height = struct.unpack_from("<4B2H", data)
        number, remembered, count = struct.unpack_from("<3I", data, 8)
        latency, support, *place = struct.unpack_from("<6f", data, 20)
        assert (latency > 0) == (steps > 0)  # else it is a picture
        assert (count > 0) == bool(flags & 16)
        context = struct.unpack_from(f"<{contexts}I", data, 44)
        at = 44 + 4 * contexts
        entries = list(struct.iter_unpack("<I3f", data[at : at + 16 * count]))
        pixels = data[at + 16 * count :]
        shape = (images, height, width)
        assert len(pixels) == 3 * math.prod(shape)
        receipt = flags, number, remembered, support, tuple(place), context, entries
        return cls(*receipt, pixels, shape, steps)


class Page:
    """The client side of a walk, without a browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []  # what is said between frames
        self.hello = json.loads(socket.recv(10))

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def look(self, timeout: float = 10) -> Shown:
        """The next frame, acknowledged."""
        shown = self.unread(timeout)
        self.say(ack=shown.number)
        return shown

    def unread(self, timeout: float = 10) -> Shown:
        until = time.monotonic() + timeout
        while isinstance(data := self.socket.recv(max(0.0, until - time.monotonic())), str):
            self.heard.append(json.loads(data))
        return Shown.parse(data)

    def wait_for(self, *keys: str) -> dict[str, Any]:
        """The next message with one of the keys; frames on the way are acknowledged."""
        while True:
            for message in self.heard:
                if not message.keys().isdisjoint(keys):
                    self.heard.remove(message)
                    return message
            data = self.socket.recv(10)
            if isinstance(data, str):
                self.heard.append(json.loads(data))
            else:
                self.say(ack=Shown.parse(data).number)

    def rest(self) -> Shown | None:
        """The frame on the screen when everything has come to rest."""
        shown = None
        with pytest.raises(TimeoutError):
            while True:
                shown = self.look(0.4)
        return shown

    def walk(self, stick: list[float], frames: int) -> list[Shown]:
        seen = []
        for _ in range(frames):
            self.say(stick=stick)
            seen.append(self.look())
        self.say(stick=REST)
        return seen


@pytest.fixture(scope="module")
def site(model: tuple[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("play") / "worlds"
    options = {"threads": 1, "seed": 3, "context": CONTEXT, "steps": 2}
    yield from serve(rtfm_rt.Model(model[0], device="cpu"), options, folder)


def serve(model: rtfm_rt.Model, options: dict[str, Any], folder: Path) -> Iterator[Site]:
    """A server while the iterator is not asked again."""
    listener = server.bind("127.0.0.1", 0)
    image = model.manifest["image"]
    choices = pictures.collect(None, image["height"], image["width"])
    arcade = server.Arcade(model, options, choices, str(folder), CONTEXT)
    running, address = server.make_server(arcade, listener, "127.0.0.1")
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    yield Site(arcade, urlsplit(address).netloc, urlsplit(address).query, folder)
    running.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def dial(site: Site) -> contextlib.AbstractContextManager[ClientConnection]:
    return connect(f"ws://{site.host}/walk?{site.query}", origin=f"http://{site.host}")


@pytest.fixture
def door(site: Site) -> Iterator[Any]:
    """Opens pages, closes them, and waits until the server has noticed."""
    with contextlib.ExitStack() as opened:
        yield lambda: Page(opened.enter_context(dial(site)))
    until = time.monotonic() + 10
    while site.arcade.visitors and time.monotonic() < until:
        time.sleep(0.01)
    assert not site.arcade.visitors
    for file in site.folder.glob("*"):
        file.unlink()


@pytest.fixture
def page(door: Any) -> Page:
    return door()


def at_rest(page: Page, last: Shown) -> Shown:
    return page.rest() or last


def saved_world(site: Site, page: Page) -> bytes:
    page.look()
    page.walk(FORWARD, 5)
    page.rest()
    page.say(save=True)
    name = page.wait_for("saved")["saved"]
    page.rest()
    return (site.folder / f"{name}.world").read_bytes()


def still_walks(page: Page) -> None:
    """No frame came by itself, and sticks still move."""
    with pytest.raises(TimeoutError):
        page.unread(0.2)
    page.say(stick=FORWARD)
    before = page.look()
    assert page.walk(FORWARD, 4)[-1].place[1] != before.place[1]
