"""Where the updates of a request go: from the thread that runs the engines to whoever waits for them.

An update says all that an answer has so far, so a reader that is slow gets the newest ones and misses nothing; what is
held for it does not grow.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from trimtab.engines.base import Update
from trimtab.errors import TrimtabError


class Sink(Protocol):
    """What the engines' thread tells of one request; it must return at once."""

    def tell(self, updates: Sequence[Update]) -> None:
        """Take updates."""
        ...

    def fail(self, error: TrimtabError) -> None:
        """Take the news that there will be no more, since everything that was running broke."""
        ...


class AsyncSink:
    """Updates for a coroutine of the loop that makes it.

    Args:
        answers: how many answers the request has.
    """

    def __init__(self, answers: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._latest: dict[tuple[int, int], Update] = {}
        self._open = answers
        self._error: TrimtabError | None = None

    def tell(self, updates: Sequence[Update]) -> None:
        """Take updates, in the engines' thread."""
        self._loop.call_soon_threadsafe(self._take, updates)

    def fail(self, error: TrimtabError) -> None:
        """Take an error, in the engines' thread."""
        self._loop.call_soon_threadsafe(self._break, error)

    async def updates(self) -> AsyncIterator[Update]:
        """Yield the newest update of each answer as they come, until all answers are finished.

        Raises:
            TrimtabError: the engine broke.
        """
        while self._open or self._latest:
            await self._ready.wait()
            self._ready.clear()
            latest, self._latest = self._latest, {}
            for _, update in sorted(latest.items()):
                yield update
            if self._error is not None:
                raise self._error

    def _take(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self._open -= update.answer is not None
            self._latest[update.ticket, update.number] = update
        self._ready.set()

    def _break(self, error: TrimtabError) -> None:
        self._error = error
        self._ready.set()


class SyncSink:
    """Updates for another thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Sequence[Update] | TrimtabError] = queue.SimpleQueue()

    def tell(self, updates: Sequence[Update]) -> None:
        """Take updates, in the engines' thread."""
        self._queue.put(updates)

    def fail(self, error: TrimtabError) -> None:
        """Take an error, in the engines' thread."""
        self._queue.put(error)

    def wait(self) -> Sequence[Update]:
        """Return the next updates, once there are some.

        Raises:
            TrimtabError: the engine broke, or nobody wants them any more.
        """
        found = self._queue.get()
        if isinstance(found, TrimtabError):
            raise found
        return found
