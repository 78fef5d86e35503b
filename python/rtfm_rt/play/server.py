# SPDX-License-Identifier: Apache-2.0
"""Serves the page and walks worlds for it: one session a connection, a few of them at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
import webbrowser
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from rtfm_rt._core import ArgumentError, Error, Model
from rtfm_rt.play import pictures, wire
from rtfm_rt.play.guard import Guard
from rtfm_rt.play.walk import Picture, Walk

VISITORS = 4
RATE = 30.0  # frames a second at most
_MESSAGES = 300  # a second from one page; it sends about 90
_UPLOAD_SECONDS = 30.0
_STATIC = os.path.join(os.path.dirname(__file__), "static")
_FILES = {
    "frameboy.css": "text/css",
    "screens.css": "text/css",
    "frameboy.js": "text/javascript",
    "controls.js": "text/javascript",
    "map.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class Arcade:
    """What all visitors share: the model, the pictures, and the list of those who are here.

    options: keyword arguments of `Session`.
    """

    def __init__(self, model: Model, options: dict[str, Any], choices: dict[str, Picture]) -> None:
        self.model, self.options, self.choices = model, options, choices
        image = model.manifest["image"]
        self.height, self.width = image["height"], image["width"]
        self.visitors: dict[str, Visitor] = {}

    async def page(self, _: Request) -> Response:
        return _file("index.html", "text/html")

    async def picture(self, request: Request) -> Response:
        chosen = self.choices.get(request.path_params["name"])
        if chosen is None:
            return JSONResponse({"error": "There is no such picture."}, 404)
        return Response(pictures.png(chosen), media_type="image/png")

    async def upload(self, request: Request) -> Response:
        visitor = self.visitors.get(request.query_params.get("visitor", ""))
        if visitor is None:
            return JSONResponse({"error": "This page is not connected; reload it."}, 404)
        if visitor.uploading:
            return JSONResponse({"error": "One picture at a time."}, 429)
        visitor.uploading = True
        try:
            data = await asyncio.wait_for(_body(request), _UPLOAD_SECONDS)
            picture, cut = await asyncio.to_thread(pictures.decode, data, self.height, self.width)
        except ArgumentError as error:
            return JSONResponse({"error": str(error)}, 400)
        except asyncio.TimeoutError:
            return JSONResponse({"error": "The picture took too long to arrive."}, 408)
        finally:
            visitor.uploading = False
        visitor.show(picture)
        return JSONResponse({"cut": cut})

    async def walk(self, socket: WebSocket) -> None:
        await socket.accept()
        if len(self.visitors) >= VISITORS:
            text = f"All {VISITORS} places are taken. Close another FRAMEBOY and reload."
            await socket.send_text(json.dumps({"error": text}))
            await socket.close(1013)
            return
        visitor = Visitor(self, socket)
        self.visitors[visitor.name] = visitor
        try:
            await visitor.stay()
        finally:
            del self.visitors[visitor.name]


class Visitor:
    """One connection: reads wishes, sends frames, and makes no frame that nobody awaits."""

    def __init__(self, arcade: Arcade, socket: WebSocket) -> None:
        self.name = secrets.token_urlsafe(9)
        self.uploading = False
        self._arcade, self._socket = arcade, socket
        self._wake = asyncio.Event()
        self._sent = self._drawn = 0
        first = next(iter(arcade.choices.values()))
        self._walk = Walk(arcade.model, first, arcade.options)

    def show(self, picture: Picture) -> None:
        self._walk.show(picture)
        self._wake.set()

    async def stay(self) -> None:
        """Until the page goes away or breaks the rules."""
        frames = asyncio.create_task(self._send_frames())
        try:
            await self._socket.send_text(json.dumps(self._hello()))
            await self._read_wishes()
        except WebSocketDisconnect:
            pass
        except ArgumentError as error:
            await self._leave(str(error), 1008)
        finally:
            frames.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await frames

    def _hello(self) -> dict[str, Any]:
        arcade = self._arcade
        return {
            "hello": self.name,
            "model": arcade.model.manifest["name"],
            "device": arcade.model.device,
            "pictures": list(arcade.choices),
            "context": arcade.options["context"],
            "upload_bytes": pictures.UPLOAD_BYTES,
        }

    async def _read_wishes(self) -> None:
        second, count = 0, 0
        while True:
            key, value = wire.parse(await self._socket.receive_text())
            second, count = _counted(second, count)
            if count > _MESSAGES:
                raise ArgumentError(f"expected at most {_MESSAGES} messages a second")
            if key == "ack":
                self._drawn = min(max(self._drawn, value), self._sent)
            elif key == "stick":
                self._walk.steer(value)
            elif key == "remember":
                self._walk.remember(value)
            elif key == "home":
                self._walk.go_home()
            elif value in self._arcade.choices:
                self._walk.show(self._arcade.choices[value])
            self._wake.set()

    async def _send_frames(self) -> None:
        try:
            began = 0.0
            while True:
                while not self._walk.wants_frame or self._sent - self._drawn >= wire.CREDIT:
                    self._wake.clear()
                    await self._wake.wait()
                await asyncio.sleep(max(0.0, began + 1 / RATE - time.monotonic()))
                now = time.monotonic()
                seconds, began = min(now - began, 2.5 / RATE), now
                message = await asyncio.to_thread(self._walk.step, seconds)
                self._sent += 1
                await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError):  # gone while a frame was on its way
            return
        except Exception:
            traceback.print_exc()
            await self._leave("The session ended with an error; the terminal says which.", 1011)

    async def _leave(self, reason: str, code: int) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.send_text(json.dumps({"error": reason}))
            await self._socket.close(code)


def application(arcade: Arcade, token: str, host: str) -> ASGIApp:
    """The ASGI application. host: the address that it is served at."""
    routes = [
        Route("/", arcade.page),
        Route("/pictures/{name}", arcade.picture),
        Route("/pictures", arcade.upload, methods=["POST"]),
        WebSocketRoute("/walk", arcade.walk),
        *(Route(f"/{name}", _serving(name, kind)) for name, kind in _FILES.items()),
    ]
    return Guard(Starlette(routes=routes), token, host, {f"/{name}" for name in _FILES})


def bind(host: str, port: int) -> socket.socket:
    """Listens; port 0 takes a free one. Errors name what to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port < 1 << 16:
            raise OSError(0, "ports end at 65535")
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise Error(
            f"play: expected an address to listen at, got {host} port {port}: {error.strerror}; "
            "choose another with --host and --port (0 takes a free port)"
        ) from None


def make_server(arcade: Arcade, listener: socket.socket, host: str) -> tuple[uvicorn.Server, str]:
    """The server, to `run([listener])`, and the address of its page, token included."""
    token = secrets.token_urlsafe(16)
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    config = uvicorn.Config(
        application(arcade, token, host),
        ws="websockets-sansio",
        ws_max_size=wire.MESSAGE_BYTES,
        ws_max_queue=8,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=16 * VISITORS,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config), f"http://{shown}:{listener.getsockname()[1]}/?token={token}"


def open_in_browser(address: str) -> None:
    """Opens the page where a browser would get a window, instead of this terminal."""
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _counted(second: int, count: int) -> tuple[int, int]:
    now = int(time.monotonic())
    return now, count + 1 if now == second else 1


async def _body(request: Request) -> bytes:
    """The body, read no further than its limit."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > pictures.UPLOAD_BYTES:
            raise ArgumentError(
                f"That file is larger than {pictures.UPLOAD_BYTES >> 20} MB. Choose a smaller one."
            )
    return bytes(data)


def _serving(name: str, kind: str) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return _file(name, kind)

    return endpoint


def _file(name: str, kind: str) -> Response:
    with open(os.path.join(_STATIC, name), "rb") as file:
        return Response(file.read(), media_type=kind)
