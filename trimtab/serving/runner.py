"""The thread that runs the engines: everything that computes happens in it, between or within their steps.

Requests come to it as commands, updates go from it to sinks. Policies that clients write have engines of their own over
the same weights; those that have something to do are stepped in turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from trimtab.decoding.request import Request, Settings
from trimtab.engines.base import Engine, Update
from trimtab.errors import BusyError, RunError, TrimtabError
from trimtab.serving.sink import Sink

BETWEEN = 0.02
"""Seconds between two steps after which no other job is begun."""

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


@dataclass(frozen=True, eq=False)
class _Command(Generic[_T]):
    """Something to do, and who waits for what comes of it."""

    job: Callable[[], _T]
    done: Future[_T] = field(default_factory=Future)

    def obey(self) -> None:
        """Do it, unless nobody waits any more."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.job())
        except BaseException as error:  # whoever waits for it gets it
            self.done.set_exception(error)

    def refuse(self, error: TrimtabError) -> None:
        """Do nothing, and say why."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)


class Runner:
    """Runs engines in a thread of its own.

    Args:
        make: makes the engine of a policy, by what identifies it.
        most: engines that are kept; the oldest idle one is let go.
        answers: answers that may run and wait, over all engines.
        anew: whether an engine that broke can be made anew; where it cannot, that is the end.
    """

    def __init__(self, make: Callable[[Hashable], Engine], *, most: int, answers: int, anew: bool = True) -> None:
        self._make, self._most, self._answers, self._anew = make, most, answers, anew
        self._engines: OrderedDict[Hashable, _Running] = OrderedDict()
        self._controls: deque[_Command[Any]] = deque()  # requests that come and go, which take no time
        self._jobs: deque[_Command[Any]] = deque()  # what may take long
        self._thread = threading.Thread(target=self._run, name="trimtab-engines", daemon=True)
        self._door = threading.Condition()
        self._closed = False
        self.open = 0
        """Answers that run or wait."""
        self.steps = 0
        """Steps so far, of all engines."""
        self.broken: TrimtabError | None = None
        """What has ended an engine that cannot be made anew, or the thread."""

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
            self._door.notify()
        self._thread.join()

    def call(self, job: Callable[[], _T]) -> Future[_T]:
        """Do something in the thread, between two steps; requests that come and go are not held up by what waits here.

        Args:
            job: what to do.

        Returns:
            Its result, or what it raised.
        """
        return self._ask(self._jobs, job)

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
        return self._ask(self._controls, lambda: self._submit(key, request, settings, sink, stream))

    def cancel(self, ticket: Ticket) -> None:
        """Let a request go before the next step; its sink hears nothing more."""
        self._ask(self._controls, lambda: self._cancel(ticket))

    def _ask(self, line: deque[_Command[Any]], job: Callable[[], _T]) -> Future[_T]:
        command = _Command(job)
        with self._door:  # nobody waits for a thread that has ended
            if self._closed:
                command.refuse(self.broken or _ending())
            else:
                line.append(command)
                self._door.notify()
        return command.done

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._obey():
                for running in self._busy():
                    self._step(running)
        except BaseException as error:  # nobody else would hear of it
            _log.exception("the engines' thread broke")
            self.broken = _broken("a thread", error)
        finally:
            self._end(self.broken or _ending())

    def _busy(self) -> list[_Running]:
        return [running for running in self._engines.values() if running.engine.busy]

    def _obey(self) -> bool:
        """Do what was asked for since the last step; returns whether to go on.

        Requests come and go first. Of the rest, what takes long is left for after the next step: scores must not stop
        answers that run, nor what would let these go.
        """
        busy = bool(self._busy())
        with self._door:
            self._door.wait_for(lambda: busy or self._closed or self._controls or self._jobs)
        while self._controls:
            self._controls.popleft().obey()
        end = time.monotonic() + BETWEEN
        while self._jobs and not self._closed and time.monotonic() < end:
            self._jobs.popleft().obey()
        return not self._closed

    def _end(self, error: TrimtabError) -> None:
        """Close the door, and tell everybody who waits."""
        with self._door:
            self._closed = True
        for line in (self._controls, self._jobs):
            while line:
                line.popleft().refuse(error)
        for running in self._engines.values():
            for number, sink in [*running.sinks.items()]:
                self._forget(running, number)
                try:
                    running.engine.cancel(number)
                except Exception:
                    _log.exception("an engine could not let a request go")
                _fail(sink, error)

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
            if not self._anew:
                self.broken = error
            raise

    def _cancel(self, ticket: Ticket) -> None:
        running = ticket.running
        if ticket.number not in running.sinks:
            return
        self._forget(running, ticket.number)
        try:
            running.engine.cancel(ticket.number)
        except Exception as error:
            self._break(running, error)

    def _forget(self, running: _Running, number: int) -> None:
        del running.sinks[number]
        self.open -= running.missing.pop(number)

    def _step(self, running: _Running) -> None:
        """Step an engine, and tell what came of it; what breaks it breaks its requests and nothing else."""
        try:
            updates = running.engine.step()
        except Exception as error:
            self._break(running, error)
            return
        self.steps += 1
        told: dict[int, list[Update]] = {}
        for update in updates:
            told.setdefault(update.ticket, []).append(update)
        for number, mine in told.items():
            if number not in running.sinks:  # cancelled
                continue
            if not self._tell(running, number, mine):
                continue
            finished = sum(update.answer is not None for update in mine)
            running.missing[number] -= finished
            self.open -= finished
            if not running.missing[number]:
                self._forget(running, number)

    def _tell(self, running: _Running, number: int, updates: Sequence[Update]) -> bool:
        """Tell a sink; returns whether it listens. Where it does not its request is let go, and no other."""
        sink = running.sinks[number]
        try:
            sink.tell(updates)
        except Exception as error:
            _log.exception("a request could not be told what came of it")
            self._cancel(Ticket(running, number, running.missing[number]))
            _fail(sink, _broken("a request", error))
            return False
        return True

    def _break(self, running: _Running, error: Exception) -> None:
        """End the requests of an engine that broke, and drop it: the next request gets a fresh one, if there can be."""
        _log.error("an engine broke", exc_info=error)
        known = error if isinstance(error, TrimtabError) else _broken("an engine", error)
        if not self._anew:
            self.broken = known
        for key in [key for key, each in self._engines.items() if each is running]:
            del self._engines[key]
        for number, sink in [*running.sinks.items()]:
            self._forget(running, number)
            _fail(sink, known)


def _fail(sink: Sink, error: TrimtabError) -> None:
    """Tell a sink that there will be no more; one that does not listen is no reason not to tell the others."""
    try:
        sink.fail(error)
    except Exception:
        _log.exception("a request could not be told that it broke")


def _broken(what: str, error: BaseException) -> RunError:
    return RunError(
        given=f"{what} that broke: {type(error).__name__}",
        expected="a step of all answers that run",
        hint="ask again; the operator's log says more",
    )


def _ending() -> BusyError:
    return BusyError(given="a server that ends", expected="one that runs", hint="ask again later")
