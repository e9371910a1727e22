"""Engines one after the other: one takes most of a machine's memory, so that two do not run side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from trimtab.engines.base import MeteredEngine

What = TypeVar("What")


class Turns(Generic[What]):
    """Starts an engine when it is asked for, after the one before is closed; whoever makes it closes the last.

    Args:
        start: starts an engine for a policy.
    """

    def __init__(self, start: Callable[[What], MeteredEngine]) -> None:
        self._start = start
        self._running: tuple[What, MeteredEngine] | None = None

    def of(self, what: What) -> Callable[[], MeteredEngine]:
        """Return what gives the engine of a policy; those of one policy's turn get the one that runs."""
        return partial(self._take, what)

    def close(self) -> None:
        """Close what runs."""
        running, self._running = self._running, None
        if running is not None:
            running[1].close()

    def _take(self, what: What) -> MeteredEngine:
        if self._running is None or self._running[0] is not what:
            self.close()
            self._running = (what, self._start(what))
        return self._running[1]
