"""Responses of server-sent events that end when their client goes away, whether or not something is being sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response

from trimtab.serving.guard import Receive, Scope, Send
from trimtab.serving.refusals import late

_T = TypeVar("_T")

DONE = b"data: [DONE]\n\n"
"""What ends a stream, as OpenAI has it."""

STALL = 60.0
"""Seconds after which a client that takes nothing of a stream counts as gone."""


class GoneError(Exception):
    """A client has gone away."""


def event(content: object) -> bytes:
    """Write a server-sent event.

    Example:
        >>> event({"a": "é"})
        b'data: {"a":"\\xc3\\xa9"}\\n\\n'
    """
    return b"data: " + as_json(content) + b"\n\n"


def as_json(content: object) -> bytes:
    """Write plain values as JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


class Streamed(Response):
    """Sends what a generator yields, and closes the generator when the client goes away.

    Args:
        pieces: bytes of events, already begun, since only what has begun can let go of what it holds; it says itself,
            as an event, what breaks it.
        headers: that go with them.
        ended: called with whether the client stayed to the end.
    """

    media_type = "text/event-stream"

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], headers: dict[str, str], ended: Callable[[bool], None]
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._pieces, self._ended = pieces, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await while_there(receive, self._send(send))
        except (GoneError, OSError):
            self._ended(False)
        else:
            self._ended(True)
        finally:
            await self._pieces.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            try:
                async with asyncio.timeout(STALL):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError as error:
                raise GoneError from error
        await send({"type": "http.response.body", "body": b""})


async def in_time(pieces: AsyncGenerator[_T, None], seconds: float) -> AsyncGenerator[_T, None]:
    """Yield what a generator yields, while there is time; it is closed in any case.

    The time runs on while whoever listens is busy with a piece, and is up when the next one is waited for.

    Args:
        pieces: yields.
        seconds: for all pieces together.

    Raises:
        TimeoutExceededError: it took longer.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    async with aclosing(pieces):
        while True:
            try:
                async with asyncio.timeout_at(deadline):  # within one turn: the next may be another task's
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise late(seconds) from error
            yield piece


async def while_there(receive: Callable[[], Awaitable[Any]], work: Awaitable[_T]) -> _T:
    """Wait for work while the client is there.

    Args:
        receive: of the connection, whose body has been read.
        work: that is cancelled when the client goes away.

    Raises:
        GoneError: the client has gone away.
    """
    gone = asyncio.ensure_future(_disconnected(receive))
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, task}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for each in (gone, task):
            each.cancel()
        await asyncio.gather(gone, task, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
