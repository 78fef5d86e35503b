# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the server: our own page, opened with our own token. Asked before anything else.

Other pages in the same browser can reach a server on loopback: by name after DNS rebinding (refused
by Host), by WebSocket or form (refused by Origin), by guessing (refused by token).
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Container
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Wraps an application. host: the address listened on; open_paths: files that need no token."""

    def __init__(self, app: ASGIApp, token: str, host: str, open_paths: Container[str]) -> None:
        self._app, self._token, self._open = app, token.encode(), open_paths
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self._any_address = host in ("0.0.0.0", "::")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        reason = self._refusal(scope)
        if scope["type"] == "websocket":
            if reason is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": ""})  # HTTP 403
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        app = self._app if reason is None else PlainTextResponse(f"{reason}\n", 403)
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._knows(host):
            return "This server does not answer to that name; use the address that rtfm-rt printed."
        origin = headers.get("origin")
        acting = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if origin != f"http://{host}" and (acting or origin is not None):
            return "This server talks to its own page only."
        if scope["path"] in self._open and not acting:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if not secrets.compare_digest(given[0].encode(), self._token):
            return "The token is missing or old; open the whole address that rtfm-rt printed."
        return None

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:  # numbers cannot be rebound
            return self._any_address and bool(ipaddress.ip_address(name))
        except ValueError:
            return False
