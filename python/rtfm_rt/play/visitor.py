# SPDX-License-Identifier: Apache-2.0
"""One connection: reads wishes, sends frames, and makes no frame that nobody awaits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from rtfm_rt._core import ArgumentError, Error
from rtfm_rt.play import wire
from rtfm_rt.play.walk import Picture, Tree, Walk
from rtfm_rt.play.worlds import Worlds
from rtfm_rt.session import Session

_MESSAGES = 300  # a second from one page; it sends about 150


class Visitor:
    """A walk and the page that it is shown on.

    choices: the pictures that the page may ask for; hello: what the page is told at first.
    """

    def __init__(
        self,
        walk: Walk,
        worlds: Worlds,
        choices: dict[str, Picture],
        socket: WebSocket,
        hello: dict[str, Any],
    ) -> None:
        self.name = secrets.token_urlsafe(9)
        self._walk, self._worlds, self._choices = walk, worlds, choices
        self._socket, self._hello = socket, {"hello": self.name, **hello}
        self._turn = asyncio.Lock()  # who holds it may use the walk's sessions
        self._wake = asyncio.Event()
        self._sent = self._drawn = 0
        self._tree: Tree | None = None
        self._busy = False
        self._errand: asyncio.Task[None] | None = None

    def show(self, picture: Picture) -> None:
        self._walk.show(picture)
        self._wake.set()

    async def enter(self, load: Callable[..., Session], *which: str) -> int:
        """Goes on in the world that `load(*which)` returns, and says how many frames it has."""
        session = await asyncio.to_thread(load, *which)
        await self._change(self._walk.enter, session)
        return len(session.memory)

    @contextlib.contextmanager
    def errand(self) -> Iterator[None]:
        """Uploading, saving, loading: one at a time, the walk goes on meanwhile."""
        if self._busy:
            raise ArgumentError("One thing at a time: the last one is not done yet.")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    async def stay(self) -> None:
        """Until the page goes away or breaks the rules."""
        frames = asyncio.create_task(self._send_frames())
        try:
            await self._say(self._hello)
            await self._read_wishes()
        except WebSocketDisconnect:
            pass
        except ArgumentError as error:
            await self._leave(str(error), 1008)
        finally:
            if self._errand is not None:  # a world that is being saved is saved
                await self._errand
            frames.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await frames

    async def _read_wishes(self) -> None:
        walk = self._walk
        second, count = 0, 0
        while True:
            key, value = wire.parse(await self._hear())
            second, count = _counted(second, count)
            if count > _MESSAGES:
                raise ArgumentError(f"expected at most {_MESSAGES} messages a second")
            if key == "ack":
                self._drawn = min(max(self._drawn, value), self._sent)
            elif key == "stick":
                walk.steer(value)
            elif key == "held":
                walk.hold(value)
            elif key == "remember":
                walk.remember(value)
            elif key == "home":
                walk.go_home()
            elif key == "picture":
                if value in self._choices:
                    walk.show(self._choices[value])
            elif key == "save":
                self._send_off(self._save)
            elif key == "load":
                self._send_off(self._load, value)
            else:
                await self._rearrange(key, value)
            self._wake.set()

    async def _hear(self) -> str:
        try:
            return await self._socket.receive_text()
        except KeyError:  # so Starlette says that it is binary
            raise ArgumentError("message: expected text, got a binary message") from None

    async def _rearrange(self, key: str, value: Any) -> None:
        walk = self._walk
        try:
            if key == "branch":
                await self._change(walk.branch)
            else:
                await self._change({"switch": walk.switch, "drop": walk.drop}[key], value)
        except Error as error:
            await self._say({"notice": str(error)})

    async def _change(self, change: Callable[..., Any], *values: Any) -> Any:
        async with self._turn:
            result = await asyncio.to_thread(change, *values)
        self._wake.set()
        return result

    def _send_off(self, errand: Callable[..., Awaitable[dict[str, Any]]], *values: str) -> None:
        async def run() -> None:
            try:
                with self.errand():
                    news = await errand(*values)
            except Error as error:
                news = {"notice": str(error)}
            except Exception:
                traceback.print_exc()
                news = {"notice": "That went wrong; the terminal says how."}
            await self._say(news)

        if self._errand is None or self._errand.done():
            self._errand = asyncio.create_task(run())

    async def _save(self) -> dict[str, Any]:
        session = await self._change(self._walk.keep)
        name = await asyncio.to_thread(self._worlds.save, session)
        return {"saved": name, "frames": len(session.memory)}

    async def _load(self, name: str) -> dict[str, Any]:
        return {"loaded": name, "frames": await self.enter(self._worlds.load, name)}

    async def _send_frames(self) -> None:
        try:
            began = 0.0
            while True:
                while not self._walk.wants_frame or self._sent - self._drawn >= wire.CREDIT:
                    self._wake.clear()
                    await self._wake.wait()
                await asyncio.sleep(max(0.0, began + 1 / self._walk.rate - time.monotonic()))
                now = time.monotonic()
                seconds, began = min(now - began, 2.5 / self._walk.rate), now
                async with self._turn:
                    message = await asyncio.to_thread(self._walk.step, seconds)
                    tree = self._walk.tree
                if tree != self._tree:
                    self._tree = tree
                    await self._say({"here": tree.here, "branches": tree.branches})
                self._sent += 1
                await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError):  # gone while a frame was on its way
            return
        except Exception:
            traceback.print_exc()
            await self._leave("The session ended with an error; the terminal says which.", 1011)

    async def _say(self, news: dict[str, Any]) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.send_text(json.dumps(news))

    async def _leave(self, reason: str, code: int) -> None:
        await self._say({"error": reason})
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.close(code)


def _counted(second: int, count: int) -> tuple[int, int]:
    now = int(time.monotonic())
    return now, count + 1 if now == second else 1
