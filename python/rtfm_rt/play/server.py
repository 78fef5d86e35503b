# SPDX-License-Identifier: Apache-2.0
"""Serves the page and walks worlds for it: one session a connection, a few of them at a time."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from rtfm_rt._core import ArgumentError, Error
from rtfm_rt.play import pictures, wire, worlds
from rtfm_rt.play.actions import ActionWalk
from rtfm_rt.play.guard import Guard
from rtfm_rt.play.poses import PoseWalk
from rtfm_rt.play.visitor import Visitor
from rtfm_rt.play.walk import BRANCHES, Picture, Walk
from rtfm_rt.play.worlds import Worlds
from rtfm_rt.session import Model

VISITORS = 4
_UPLOAD_SECONDS = 120.0
_STATIC = os.path.join(os.path.dirname(__file__), "static")
_FILES = {
    "frameboy.css": "text/css",
    "worlds.css": "text/css",
    "screens.css": "text/css",
    "actions.css": "text/css",
    "frameboy.js": "text/javascript",
    "controls.js": "text/javascript",
    "buttons.js": "text/javascript",
    "map.js": "text/javascript",
    "worlds.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


class Arcade:
    """What all visitors share: the model, the pictures, the worlds, and the list of who is here.

    options: keyword arguments of `Session`; folder: of the saved worlds; context: frames that one
    attends to; most: bytes of an uploaded world.
    """

    def __init__(
        self,
        model: Model,
        options: dict[str, Any],
        choices: dict[str, Picture],
        folder: str,
        context: int,
        most: int = worlds.UPLOAD_BYTES,
    ) -> None:
        self.model, self.options, self.choices = model, options, choices
        self.worlds = Worlds(folder, model, threads=options["threads"])
        image = model.manifest["image"]
        self.height, self.width = image["height"], image["width"]
        self.context, self.most = context, most
        self.visitors: dict[str, Visitor] = {}

    async def page(self, _: Request) -> Response:
        return _file("index.html", "text/html")

    async def picture(self, request: Request) -> Response:
        chosen = self.choices.get(request.path_params["name"])
        if chosen is None:
            return JSONResponse({"error": "There is no such picture."}, 404)
        return Response(pictures.png(chosen), media_type="image/png")

    async def upload_picture(self, request: Request) -> Response:
        async def take(visitor: Visitor) -> dict[str, Any]:
            data = bytearray()
            await _receive(request, pictures.UPLOAD_BYTES, data.extend)
            picture, cut = await asyncio.to_thread(
                pictures.decode, bytes(data), self.height, self.width
            )
            visitor.show(picture)
            return {"cut": cut}

        return await self._upload(request, take)

    async def list_worlds(self, _: Request) -> Response:
        return JSONResponse({"worlds": await asyncio.to_thread(self.worlds.list)})

    async def download_world(self, request: Request) -> Response:
        try:
            file = await asyncio.to_thread(self.worlds.file, request.path_params["name"])
        except Error as error:
            return JSONResponse({"error": str(error)}, 404)
        kind = "application/octet-stream"
        return FileResponse(file, media_type=kind, filename=os.path.basename(file))

    async def upload_world(self, request: Request) -> Response:
        async def take(visitor: Visitor) -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "upload")
                with open(path, "wb") as file:
                    await _receive(request, self.most, file.write)
                return {"frames": await visitor.enter(self.worlds.load_upload, path)}

        return await self._upload(request, take)

    async def _upload(
        self, request: Request, take: Callable[[Visitor], Awaitable[dict[str, Any]]]
    ) -> Response:
        visitor = self.visitors.get(request.query_params.get("visitor", ""))
        if visitor is None:
            return JSONResponse({"error": "This page is not connected; reload it."}, 404)
        try:
            with visitor.errand():
                return JSONResponse(await take(visitor))
        except Error as error:
            return JSONResponse({"error": str(error)}, 400)
        except asyncio.TimeoutError:
            return JSONResponse({"error": "The file took too long to arrive."}, 408)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody

    async def walk(self, socket: WebSocket) -> None:
        await socket.accept()
        if len(self.visitors) >= VISITORS:
            text = f"All {VISITORS} places are taken. Close another FRAMEBOY and reload."
            await socket.send_text(json.dumps({"error": text}))
            await socket.close(1013)
            return
        kind: type[Walk] = ActionWalk if self.model.manifest.get("actions") else PoseWalk
        walk = kind(self.model, next(iter(self.choices.values())), self.options)
        hello = {**self._hello(), "buttons": walk.buttons}
        visitor = Visitor(walk, self.worlds, self.choices, socket, hello)
        self.visitors[visitor.name] = visitor
        try:
            await visitor.stay()
        finally:
            del self.visitors[visitor.name]

    def _hello(self) -> dict[str, Any]:
        return {
            "model": self.model.manifest["name"],
            "device": self.model.device,
            "pictures": list(self.choices),
            "context": self.context,
            "branches": len(BRANCHES),
            "upload_bytes": pictures.UPLOAD_BYTES,
            "world_bytes": self.most,
        }


def application(arcade: Arcade, token: str, host: str) -> ASGIApp:
    """The ASGI application. host: the address that it is served at."""
    routes = [
        Route("/", arcade.page),
        Route("/pictures/{name}", arcade.picture),
        Route("/pictures", arcade.upload_picture, methods=["POST"]),
        Route("/worlds", arcade.list_worlds),
        Route("/worlds", arcade.upload_world, methods=["POST"]),
        Route("/worlds/{name}", arcade.download_world),
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


async def _receive(request: Request, most: int, write: Callable[[bytes], object]) -> None:
    """Writes the body, read no further than `most` bytes and no longer than `_UPLOAD_SECONDS`."""

    async def receive() -> None:
        count = 0
        async for part in request.stream():
            count += len(part)
            if count > most:
                raise ArgumentError(
                    f"That file is larger than {most >> 20} MB. Choose a smaller one."
                )
            await asyncio.to_thread(write, part)

    await asyncio.wait_for(receive(), _UPLOAD_SECONDS)


def _serving(name: str, kind: str) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return _file(name, kind)

    return endpoint


def _file(name: str, kind: str) -> Response:
    with open(os.path.join(_STATIC, name), "rb") as file:
        return Response(file.read(), media_type=kind)
