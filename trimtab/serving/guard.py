"""What stands before every route: who may come in, how much they may carry, and under which name the server is called.

It is a plain ASGI middleware that decides on the path of the connection itself, not on what a ``Host`` header makes of
it. Everything is closed unless it is listed here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException

from trimtab.serving.keys import Keys
from trimtab.serving.refusals import Refusal, plain

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names of this machine for itself."""

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
"""Headers of every answer: the playground loads nothing from elsewhere, and nobody frames it."""


class Guard:
    """Lets requests through to the server, or answers them itself.

    Args:
        app: the server.
        keys: that open it; without any it is open to everybody who reaches it.
        body_bytes: that a request may have.
        public: paths that need no key, whole.
        hosts: names that a ``Host`` header may have, without the port; None takes any. A server that only this machine
            reaches has no other names: a page from elsewhere that has its own name point here is turned away.
        counted: told the path and the status of every answer.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        body_bytes: int,
        public: frozenset[str],
        hosts: frozenset[str] | None,
        counted: Callable[[str, int], None],
    ) -> None:
        self._app, self._keys, self._bytes = app, keys, body_bytes
        self._public, self._hosts, self._counted = public, hosts, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # websockets: there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        sender = _with_headers(send, partial(self._counted, scope["path"]))
        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await answer(sender, refusal)
            return
        await self._app(scope, _Body(receive, self._bytes).receive, sender)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> Refusal | None:
        """Return why a request does not come in, if it does not."""
        if self._hosts is not None and _host(headers.get(b"host", b"")) not in self._hosts:
            message = f"given: another name than {', '.join(sorted(self._hosts))} in the Host header"
            return plain(421, message, "misdirected_request")
        if self._keys and path not in self._public and not self._keys.opens(_bearer(headers)):
            message = "given: no key, or one that opens nothing here\ntry: send the header Authorization: Bearer KEY"
            return plain(401, message, "invalid_api_key", {"www-authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 20 or int(length) > self._bytes:
            return self._too_large()
        return None

    def _too_large(self) -> Refusal:
        return plain(413, f"expected: a body of at most {self._bytes} bytes", "request_too_large")


class _Body:
    """Counts what comes in: a body may be longer than its headers say, or say nothing."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most

    async def receive(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise HTTPException(413, "a body that is too large")
        return message


async def answer(send: Send, refusal: Refusal) -> None:
    """Answer with an error."""
    body = json.dumps(refusal.to_dict()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send, counted: Callable[[int], None]) -> Send:
    """Add the headers of every answer, and tell its status."""

    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            counted(message["status"])
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sender


def _bearer(headers: dict[bytes, bytes]) -> str:
    """Return the key that a request carries, if any."""
    scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _host(header: bytes) -> str:
    """Return the name in a ``Host`` header, without the port."""
    text = header.decode("latin-1").lower()
    if text.startswith("["):
        return text[: text.find("]") + 1]
    return text.partition(":")[0]
