"""The thread that runs the engines: everything that computes happens in it, between or within their steps.

Requests come to it as commands, updates go from it to sinks. Policies that clients write have engines of their own over
the same weights; those that have something to do are stepped in turn.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from trimtab.decoding.request import Request, Settings
from trimtab.engines.base import Engine, Update
from trimtab.errors import BusyError, RunError, TrimtabError
from trimtab.serving.sink import Sink

BETWEEN = 0.02
"""Seconds between two steps after which nothing else is begun."""

_log = logging.getLogger("trimtab.serving")
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request that an engine has taken on."""

    running: _Running
    number: int
    answers: int


@dataclass(eq=False)
class _Running:
    """An engine and whose requests it has: ticket number to where its updates go, and to answers that are to come."""

    engine: Engine
    sinks: dict[int, Sink] = field(default_factory=dict)
    missing: dict[int, int] = field(default_factory=dict)


class Runner:
    """Runs engines in a thread of its own.

    Args:
        make: makes the engine of a policy, by what identifies it.
        most: engines that are kept; the oldest idle one is let go.
        answers: answers that may run and wait, over all engines.
    """

    def __init__(self, make: Callable[[Hashable], Engine], *, most: int, answers: int) -> None:
        self._make, self._most, self._answers = make, most, answers
        self._engines: OrderedDict[Hashable, _Running] = OrderedDict()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trimtab-engines", daemon=True)
        self._door = threading.Lock()
        self._closed = False
        self.open = 0
        """Answers that run or wait."""
        self.steps = 0
        """Steps so far, of all engines."""
        self.broken: TrimtabError | None = None
        """What has ended an engine that cannot be made anew."""

    @property
    def alive(self) -> bool:
        """Whether requests can be answered."""
        return self._thread.is_alive() and self.broken is None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Let everything go that runs, and end the thread; whatever is asked for later is refused."""
        with self._door:
            self._closed = True
            self._commands.put(None)
        self._thread.join()

    def call(self, job: Callable[[], _T]) -> Future[_T]:
        """Do something in the thread, after its present step.

        Args:
            job: what to do.

        Returns:
            Its result, or what it raised.
        """
        done: Future[_T] = Future()

        def command() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(job())
            except BaseException as error:  # whoever waits for it gets it
                done.set_exception(error)

        with self._door:  # nobody waits for a thread that has ended
            if self._closed:
                done.set_exception(_ending())
            else:
                self._commands.put(command)
        return done

    def submit(
        self, key: Hashable, request: Request, settings: Settings, sink: Sink, *, stream: bool
    ) -> Future[Ticket]:
        """Hand a request to the engine of a policy.

        Args:
            key: what identifies the policy.
            request: the request.
            settings: how it is decoded.
            sink: where updates go.
            stream: whether unfinished answers are told.

        Returns:
            What cancels it, once the engine has taken it on; or why it has not.
        """
        return self.call(lambda: self._submit(key, request, settings, sink, stream))

    def cancel(self, ticket: Ticket) -> None:
        """Let a request go before the next step; its sink hears nothing more."""
        self._commands.put(lambda: self._cancel(ticket))

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            busy = [running for running in self._engines.values() if running.engine.busy]
            if not self._obey(wait=not busy):
                return
            for running in busy:
                self._step(running)

    def _obey(self, *, wait: bool) -> bool:
        """Do what was asked for since the last step; returns whether to go on.

        Where answers run, what takes long is left for after the next step: scores must not stop them.
        """
        end = math.inf if wait else time.monotonic() + BETWEEN
        while time.monotonic() < end:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if command is None:
                self._let_go(_ending())
                return False
            command()
            wait = False
        return True

    def _let_go(self, error: TrimtabError) -> None:
        for running in self._engines.values():
            for number, sink in [*running.sinks.items()]:
                running.engine.cancel(number)
                self._forget(running, number)
                sink.fail(error)

    def _submit(self, key: Hashable, request: Request, settings: Settings, sink: Sink, stream: bool) -> Ticket:
        if self.open + request.n > self._answers:
            raise BusyError(
                given=f"{request.n} more answers with {self.open} running and waiting",
                expected=f"at most {self._answers}",
                hint="try again later",
            )
        running = self._engine(key)
        number = running.engine.submit(request, settings, stream=stream)
        running.sinks[number], running.missing[number] = sink, request.n
        self.open += request.n
        return Ticket(running, number, request.n)

    def _engine(self, key: Hashable) -> _Running:
        """Return the engine of a policy, which is made where there is none."""
        if key not in self._engines:
            self._engines[key] = _Running(self._made(key))
            for old in [each for each, running in self._engines.items() if not running.sinks and each != key]:
                if len(self._engines) <= self._most:
                    break
                del self._engines[old]
        self._engines.move_to_end(key)
        return self._engines[key]

    def _made(self, key: Hashable) -> Engine:
        try:
            return self._make(key)
        except RunError as error:
            self.broken = error
            raise

    def _cancel(self, ticket: Ticket) -> None:
        running = ticket.running
        if ticket.number in running.sinks:
            running.engine.cancel(ticket.number)
            self._forget(running, ticket.number)

    def _forget(self, running: _Running, number: int) -> None:
        del running.sinks[number]
        self.open -= running.missing.pop(number)

    def _step(self, running: _Running) -> None:
        """Step an engine, and tell what came of it; what breaks it breaks its requests and nothing else."""
        try:
            updates = running.engine.step()
        except Exception as error:
            _log.exception("an engine broke")
            self._break(running, error)
            return
        self.steps += 1
        told: dict[int, list[Update]] = {}
        for update in updates:
            told.setdefault(update.ticket, []).append(update)
        for number, mine in told.items():
            if number not in running.sinks:  # cancelled
                continue
            running.sinks[number].tell(mine)
            finished = sum(update.answer is not None for update in mine)
            running.missing[number] -= finished
            self.open -= finished
            if not running.missing[number]:
                self._forget(running, number)

    def _break(self, running: _Running, error: Exception) -> None:
        """End the requests of an engine that broke, and drop it: the next request gets a fresh one."""
        known = (
            error
            if isinstance(error, TrimtabError)
            else RunError(
                given=f"an engine that broke: {type(error).__name__}",
                expected="a step of all answers that run",
                hint="ask again; the operator's log says more",
            )
        )
        for number, sink in [*running.sinks.items()]:
            sink.fail(known)
            self._forget(running, number)
        for key in [key for key, each in self._engines.items() if each is running]:
            del self._engines[key]


def _ending() -> BusyError:
    return BusyError(given="a server that ends", expected="one that runs", hint="ask again later")
